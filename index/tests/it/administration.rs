//! Administration of the collection: profiles, bulk loads, snapshots, recall, dropping it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use unprompt_index::{
    Filter, IndexError, IndexState, Profile, PromptIndex, PromptPoint, Query, RecallOptions, SnapshotInfo,
    Space, Version,
};
use unprompt_test_qdrant::{Cloud, TestEndpoint};

use crate::prompt_index::{CLIP_DIM, connect, layout, prompt};

/// Enough for a graph: 10,000 KB of the MiniLM vectors are 6,827 prompts.
const MANY: u64 = 7_500;

async fn filled(endpoint: &TestEndpoint, count: u64) -> PromptIndex {
    let index = connect(endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.upsert((0..count).map(|n| prompt(n, "a", 100)).collect()).await.unwrap();
    index
}

async fn everything(index: &PromptIndex) -> Vec<PromptPoint> {
    let (points, next) =
        index.page(&Filter::default(), None, 10_000, &[Space::Clip, Space::MiniLm]).await.unwrap();
    assert_eq!(next, None);
    points
}

fn same(one: &[PromptPoint], other: &[PromptPoint]) -> bool {
    let near =
        |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    one.len() == other.len()
        && one.iter().zip(other).all(|(a, b)| {
            (a.prompt_id, &a.text, &a.sources, a.created_at_ms, &a.attributes)
                == (b.prompt_id, &b.text, &b.sources, b.created_at_ms, &b.attributes)
                && near(&a.minilm, &b.minilm)
                && near(&a.clip, &b.clip)
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_remembers_its_profile() {
    let endpoint = TestEndpoint::start().await;
    for profile in Profile::ALL {
        let index = connect(&endpoint).await;
        index.ensure(&layout().profile(profile)).await.unwrap();
        assert_eq!(index.profile().await, profile);
        // The configuration may change later; an existing collection stays as it is.
        index.ensure(&layout()).await.unwrap();
        let stats = index.stats().await.unwrap();
        assert_eq!(stats.info.profile, profile);
        assert_eq!((stats.hnsw_m, stats.hnsw_ef_construct), (profile.hnsw_m(), profile.hnsw_ef_construct()));
        assert!(profile.quantisation().starts_with(&stats.quantisation), "{}", stats.quantisation);
        index.drop_collection().await.unwrap();
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_profile_has_high_recall_once_its_graph_is_built() {
    let endpoint = TestEndpoint::start().await;
    for profile in Profile::ALL {
        let index = connect(&endpoint).await;
        index.ensure(&layout().profile(profile)).await.unwrap();
        let mut cloud = Cloud::new(384, 3);
        index.begin_bulk().await.unwrap();
        let points = (0..MANY).map(|n| PromptPoint { minilm: cloud.vector(), ..prompt(n, "a", 0) });
        index.upsert(points.collect()).await.unwrap();
        let info = index.finish_bulk(|_| {}).await.unwrap();
        assert!(info.indexed_vectors >= MANY, "{profile}: {info:?}");
        let options = RecallOptions { space: Space::MiniLm, queries: 30, k: 50, efs: vec![None, Some(200)] };
        let measured = index.recall(&options, || {}).await.unwrap();
        assert_eq!(measured.iter().map(|at| at.ef).collect::<Vec<_>>(), [None, Some(200)]);
        for at in measured {
            assert!(at.recall > 0.93 && at.recall <= 1.0, "{profile}: {at:?}");
            assert!(at.p99_ms >= at.p50_ms && at.queries_per_s > 0.0, "{at:?}");
        }
        index.drop_collection().await.unwrap();
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_graph_is_built_before_a_bulk_load_is_finished() {
    let endpoint = TestEndpoint::start().await;
    let index = connect(&endpoint).await;
    index.ensure(&layout()).await.unwrap();
    index.begin_bulk().await.unwrap();
    index.upsert((0..MANY).map(|n| prompt(n, "a", 0)).collect()).await.unwrap();
    let loading = index.optimize_wait(Duration::from_secs(60)).await.unwrap();
    assert!(loading.bulk && loading.state == IndexState::Ready, "{loading:?}");
    assert_eq!((loading.points, loading.indexed_vectors), (MANY, 0));
    // Loaded prompts can be found before the graph is built.
    let wanted = prompt(77, "a", 0);
    let query = Query::new(Space::MiniLm, wanted.minilm.clone(), 1);
    assert_eq!(index.search(&query).await.unwrap()[0].prompt_id, wanted.prompt_id);
    let mut looks = 0;
    let info = index.finish_bulk(|_| looks += 1).await.unwrap();
    assert!(looks > 0 && !info.bulk && info.state == IndexState::Ready, "{info:?}");
    assert!(info.indexed_vectors >= MANY && info.segments <= 2, "{info:?}");
    // Beginning and finishing a load is harmless when there is nothing to do.
    index.begin_bulk().await.unwrap();
    index.begin_bulk().await.unwrap();
    assert!(!index.finish_bulk(|_| {}).await.unwrap().bulk);
    index.drop_collection().await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upsert_missing_skips_unchanged_prompts() {
    let endpoint = TestEndpoint::start().await;
    let index = filled(&endpoint, 50).await;
    let mut points: Vec<_> = (40..60).map(|n| prompt(n, "a", 100)).collect();
    assert_eq!(index.upsert_missing(points.clone()).await.unwrap(), 10);
    points[0].sources = vec!["b".into()];
    points[1].created_at_ms = 50;
    assert_eq!(index.upsert_missing(points).await.unwrap(), 18);
    let changed = index.get(&[prompt(40, "", 0).prompt_id], false).await.unwrap();
    assert_eq!(changed[0].sources, ["a", "b"]);
    index.drop_collection().await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_restores_every_prompt_into_another_collection() {
    let (endpoint, folder) = (TestEndpoint::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("prompts.parquet");
    let index = filled(&endpoint, 2500).await;
    let mut heard = Vec::new();
    let info = index.snapshot(&file, |count| heard.push(count)).await.unwrap();
    assert_eq!((info.points, info.clip_dim, info.encoder.as_str()), (2500, CLIP_DIM, "tiny-clip@0a1b2c"));
    assert_eq!(heard, [1000, 2000, 2500]);
    assert_eq!(SnapshotInfo::read(&file).unwrap(), info);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the snapshot is left");
    let elsewhere = connect(&endpoint).await;
    let restored = elsewhere.restore(&file, Some(Profile::SmallMemory), |_, _| {}).await.unwrap();
    assert_eq!((restored.points, restored.already_there), (2500, 0));
    assert_eq!(elsewhere.profile().await, Profile::SmallMemory);
    assert!(same(&everything(&index).await, &everything(&elsewhere).await));
    let again = elsewhere.restore(&file, None, |_, _| {}).await.unwrap();
    assert_eq!((again.points, again.already_there), (2500, 2500));
    for index in [index, elsewhere] {
        index.drop_collection().await.unwrap();
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_restore_writes_only_the_missing_prompts() {
    let (endpoint, folder) = (TestEndpoint::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("prompts.parquet");
    let index = filled(&endpoint, 2500).await;
    index.snapshot(&file, |_| {}).await.unwrap();
    let before = everything(&index).await;
    let deleted = before[1500..].iter().map(|point| (point.prompt_id, Version { at_ms: 1, partition: None }));
    index.delete_as_of(&deleted.collect::<Vec<_>>()).await.unwrap();
    let restored = index.restore(&file, None, |_, _| {}).await.unwrap();
    assert_eq!((restored.points, restored.already_there), (2500, 1500));
    assert!(same(&before, &everything(&index).await));
    index.drop_collection().await.unwrap();
    endpoint.stop().await;
}

async fn refusal(index: &PromptIndex, file: &Path) -> String {
    let error = index.restore(file, None, |_, _| {}).await.unwrap_err();
    assert!(matches!(&error, IndexError::Snapshot { path, .. } if path == file), "{error}");
    assert!(matches!(index.count(&Filter::default()).await, Err(IndexError::NoCollection { .. })));
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_with_its_path_before_anything_is_written() {
    let (endpoint, folder) = (TestEndpoint::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("prompts.parquet");
    let index = filled(&endpoint, 300).await;
    index.snapshot(&file, |_| {}).await.unwrap();
    index.drop_collection().await.unwrap();
    let whole = fs::read(&file).unwrap();
    // A flipped bit in a vector: the table is still valid, but its rows have changed.
    for place in [whole.len() / 3, whole.len() / 2] {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        fs::write(&file, flipped).unwrap();
        assert!(refusal(&index, &file).await.contains("damaged"));
    }
    for length in [0, 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(refusal(&index, &file).await.contains("cut short"));
    }
    assert!(refusal(&index, &folder.path().join("missing.parquet")).await.contains("cannot be read"));
    fs::write(&file, whole).unwrap();
    assert_eq!(index.restore(&file, None, |_, _| {}).await.unwrap().points, 300);
    index.drop_collection().await.unwrap();
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_another_encoder_is_refused() {
    let (endpoint, folder) = (TestEndpoint::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("prompts.parquet");
    let index = filled(&endpoint, 10).await;
    index.snapshot(&file, |_| {}).await.unwrap();
    let other = connect(&endpoint).await;
    other.ensure(&unprompt_index::Layout { encoder: "other@1".into(), ..layout() }).await.unwrap();
    let error = other.restore(&file, None, |_, _| {}).await.unwrap_err();
    assert!(matches!(error, IndexError::OtherEncoder { .. }), "{error}");
    assert_eq!(other.count(&Filter::default()).await.unwrap(), 0);
    for index in [index, other] {
        index.drop_collection().await.unwrap();
    }
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_snapshot_returns_an_error_and_leaves_no_file() {
    let (endpoint, folder) = (TestEndpoint::start().await, tempfile::tempdir().unwrap());
    let index = filled(&endpoint, 3).await;
    let error = index.snapshot(&folder.path().join("no/such/folder.parquet"), |_| {}).await.unwrap_err();
    assert!(matches!(error, IndexError::Snapshot { .. }) && error.to_string().contains("cannot be written"));
    index.drop_collection().await.unwrap();
    let file = folder.path().join("of-nothing.parquet");
    assert!(matches!(index.snapshot(&file, |_| {}).await, Err(IndexError::NoCollection { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_count_prompts_by_source_and_name_the_indexes() {
    let endpoint = TestEndpoint::start().await;
    let index = filled(&endpoint, 30).await;
    index.upsert((0..10).map(|n| prompt(n, "b", 100)).collect()).await.unwrap();
    let stats = index.stats().await.unwrap();
    let sources: Vec<_> = stats.sources.iter().map(|of| (of.source.as_str(), of.prompts)).collect();
    assert_eq!(sources, [("a", 30), ("b", 10)]);
    let fields: Vec<_> =
        stats.fields.iter().map(|of| (of.field.as_str(), of.kind.as_str(), of.points)).collect();
    let expected = [
        ("created_at", "integer", 30),
        ("length", "integer", 30),
        ("sources", "keyword", 30),
        ("text", "words", 30),
    ];
    assert_eq!(fields, expected);
    assert_eq!(stats.vectors, [("clip".to_owned(), CLIP_DIM as u64), ("minilm".to_owned(), 384)]);
    assert!(index.drop_collection().await.unwrap());
    assert!(matches!(index.stats().await, Err(IndexError::NoCollection { .. })));
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_can_be_changed_without_loading_again() {
    let endpoint = TestEndpoint::start().await;
    let index = filled(&endpoint, 200).await;
    let before = everything(&index).await;
    index.change_profile(Profile::SmallMemory).await.unwrap();
    index.finish_bulk(|_| {}).await.unwrap();
    let stats = index.stats().await.unwrap();
    assert_eq!(
        (stats.info.profile, stats.quantisation.as_str()),
        (Profile::SmallMemory, "TurboQuant, 2 bits")
    );
    assert!(same(&before, &everything(&index).await));
    index.upsert(vec![prompt(999, "a", 0)]).await.unwrap();
    assert_eq!(index.count(&Filter::default()).await.unwrap(), 201);
    index.drop_collection().await.unwrap();
    endpoint.stop().await;
}
