//! Tests of durability across a kill at any moment, a restart and a stop. They run on the embedded
//! endpoint only.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use qdrant_client::qdrant::{
    CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder,
    DeletePointsBuilder, Distance, FieldType, GetPointsBuilder, OptimizersConfigDiffBuilder, PointId,
    PointStruct, PointsIdsList, UpsertPointsBuilder, VectorParamsBuilder, WalConfigDiffBuilder,
};
use qdrant_client::{Payload, Qdrant};
use serde_json::json;
use unprompt_embedded_index::{EmbeddedIndex, EmbeddedIndexError};
use unprompt_test_qdrant::{KilledServer, client, serve_until_killed};

const DIM: u64 = 64;
const COLLECTION: &str = "survivors";

/// Not a test: the server that a child process runs until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the server of the tests that kill one"]
async fn child() {
    serve_until_killed().await;
}

fn serve(folder: &Path) -> KilledServer {
    KilledServer::start(folder, "durability::child")
}

fn point(number: u64) -> PointStruct {
    let vector: Vec<f32> = (0..DIM).map(|i| ((number * 31 + i * 17) % 101) as f32 - 50.0).collect();
    PointStruct::new(number, vector, Payload::try_from(json!({"number": number})).unwrap())
}

/// Creates a collection with small thresholds, so that graphs are built, segments merged and logs
/// truncated all the time.
async fn create(client: &Qdrant) {
    let create = CreateCollectionBuilder::new(COLLECTION)
        .vectors_config(VectorParamsBuilder::new(DIM, Distance::Cosine))
        .optimizers_config(
            OptimizersConfigDiffBuilder::default().indexing_threshold(100).default_segment_number(1),
        )
        .wal_config(WalConfigDiffBuilder::default().wal_capacity_mb(1));
    client.create_collection(create).await.unwrap();
}

/// The acknowledged writes, and whether writing is paused.
#[derive(Default)]
struct Acknowledged {
    written: Mutex<Vec<u64>>,
    deleted: Mutex<Vec<u64>>,
    paused: AtomicBool,
}

/// Writes until the server is gone and notes each acknowledgement. Occasionally deletes a point
/// that was written.
async fn write_until_killed(client: Qdrant, next: Arc<AtomicU64>, acknowledged: Arc<Acknowledged>) {
    loop {
        while acknowledged.paused.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let first = next.fetch_add(20, Ordering::Relaxed);
        let numbers: Vec<u64> = (first..first + 20).collect();
        let points = numbers.iter().map(|n| point(*n)).collect::<Vec<_>>();
        if client.upsert_points(UpsertPointsBuilder::new(COLLECTION, points).wait(true)).await.is_err() {
            return;
        }
        acknowledged.written.lock().extend(&numbers);
        if first.is_multiple_of(100) {
            let ids = PointsIdsList { ids: vec![first.into()] };
            if client
                .delete_points(DeletePointsBuilder::new(COLLECTION).points(ids).wait(true))
                .await
                .is_err()
            {
                // It may or may not have been applied.
                acknowledged.written.lock().retain(|number| *number != first);
                return;
            }
            acknowledged.deleted.lock().push(first);
        }
    }
}

async fn check(client: &Qdrant, acknowledged: &Acknowledged) {
    let deleted = acknowledged.deleted.lock().clone();
    let written = acknowledged.written.lock().clone();
    let expected: Vec<u64> = written.into_iter().filter(|number| !deleted.contains(number)).collect();
    for chunk in expected.chunks(1000) {
        let ids: Vec<PointId> = chunk.iter().map(|number| (*number).into()).collect();
        let found =
            client.get_points(GetPointsBuilder::new(COLLECTION, ids).with_payload(true)).await.unwrap();
        assert_eq!(found.result.len(), chunk.len(), "acknowledged points are missing");
        for (point, number) in found.result.iter().zip(chunk) {
            assert_eq!(point.payload["number"].as_integer(), Some(*number as i64));
        }
    }
    let ids: Vec<PointId> = deleted.iter().map(|number| (*number).into()).collect();
    let back = client.get_points(GetPointsBuilder::new(COLLECTION, ids)).await.unwrap().result;
    assert!(back.is_empty(), "{} deleted points came back", back.len());
}

/// Returns whether a segment in the folder is being built.
fn is_optimising(folder: &Path) -> bool {
    let collections = std::fs::read_dir(folder.join("collections")).unwrap().flatten();
    let mut unfinished = collections.map(|collection| collection.path().join("temp_segments"));
    unfinished.any(|temporary| std::fs::read_dir(temporary).is_ok_and(|mut entries| entries.next().is_some()))
}

async fn wait_for_an_optimisation(folder: &Path) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < deadline {
        if is_optimising(folder) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kills() {
    let folder = tempfile::tempdir().unwrap();
    let next = Arc::new(AtomicU64::new(0));
    let acknowledged = Arc::new(Acknowledged::default());
    let mut interrupted = 0;
    for round in 0..6u64 {
        let server = serve(folder.path());
        let client = client(&server.url);
        if round == 0 {
            create(&client).await;
        }
        check(&client, &acknowledged).await;
        let writers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn(write_until_killed(client.clone(), Arc::clone(&next), Arc::clone(&acknowledged)))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(700)).await;
        // A pause lets an optimisation start; the kill then hits it together with concurrent
        // writes.
        acknowledged.paused.store(true, Ordering::Relaxed);
        interrupted += u64::from(wait_for_an_optimisation(folder.path()).await);
        acknowledged.paused.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20 + 40 * round)).await;
        server.kill();
        for writer in writers {
            writer.await.unwrap();
        }
    }
    assert!(acknowledged.written.lock().len() > 1000, "too few writes to mean anything");
    assert!(interrupted > 0, "no kill came near an optimisation");
    let server = serve(folder.path());
    check(&client(&server.url), &acknowledged).await;
    server.kill();
}

fn wal_bytes(folder: &Path) -> u64 {
    let collections = std::fs::read_dir(folder.join("collections")).unwrap().flatten();
    let wals = collections.map(|collection| collection.path().join("wal")).filter(|wal| wal.is_dir());
    let sizes = wals
        .flat_map(|wal| std::fs::read_dir(wal).unwrap().flatten().map(|file| file.metadata().unwrap().len()));
    sizes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_is_truncated_as_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    let client = client(&index.url());
    create(&client).await;
    // A point takes about 350 bytes in the log: 14 MB go through a log of 1 MB files.
    for first in (0..40_000).step_by(1000) {
        let points: Vec<_> = (first..first + 1000).map(point).collect();
        client.upsert_points(UpsertPointsBuilder::new(COLLECTION, points).wait(true)).await.unwrap();
    }
    // The log is retained while a graph is built; the next write after that truncates it.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while wal_bytes(folder.path()) > 4 << 20 {
        assert!(std::time::Instant::now() < deadline, "the log holds {} bytes", wal_bytes(folder.path()));
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.upsert_points(UpsertPointsBuilder::new(COLLECTION, vec![point(1)]).wait(true)).await.unwrap();
    }
    index.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_collections_aliases_indexes_and_points() {
    let folder = tempfile::tempdir().unwrap();
    let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    let first = client(&index.url());
    create(&first).await;
    first.create_alias(CreateAliasBuilder::new(COLLECTION, "alias")).await.unwrap();
    let field = CreateFieldIndexCollectionBuilder::new("alias", "number", FieldType::Integer).wait(true);
    first.create_field_index(field).await.unwrap();
    let points: Vec<_> = (0..50).map(point).collect();
    // Does not wait: a clean stop applies the accepted writes.
    first.upsert_points(UpsertPointsBuilder::new("alias", points).wait(false)).await.unwrap();
    drop(first);
    index.stop().await.unwrap();
    let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    let second = client(&index.url());
    let count = second.count(CountPointsBuilder::new("alias").exact(true)).await.unwrap();
    assert_eq!(count.result.unwrap().count, 50);
    let info = second.collection_info("alias").await.unwrap().result.unwrap();
    assert!(info.payload_schema.contains_key("number"));
    assert_eq!(info.config.unwrap().optimizer_config.unwrap().indexing_threshold, Some(100));
    index.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused_and_free_after_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    let error = EmbeddedIndex::start(folder.path(), 0).await.unwrap_err();
    assert!(matches!(&error, EmbeddedIndexError::Folder { .. }), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    index.stop().await.unwrap();
    EmbeddedIndex::start(folder.path(), 0).await.unwrap().stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let index = EmbeddedIndex::start(one.path(), 0).await.unwrap();
    let port = index.address().port();
    assert!(index.address().ip().is_loopback());
    let error = EmbeddedIndex::start(two.path(), port).await.unwrap_err();
    assert!(matches!(error, EmbeddedIndexError::Listen { port: named, .. } if named == port), "{error}");
    index.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_collection_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    create(&client(&index.url())).await;
    index.stop().await.unwrap();
    let collections = std::fs::read_dir(folder.path().join("collections")).unwrap();
    let collection: PathBuf = collections.flatten().next().unwrap().path();
    std::fs::write(collection.join("edge_config.json"), "{").unwrap();
    let error = EmbeddedIndex::start(folder.path(), 0).await.unwrap_err().to_string();
    assert!(error.contains(collection.to_str().unwrap()) && error.contains("move it away"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_endpoint_frees_its_folder_too() {
    let folder = tempfile::tempdir().unwrap();
    let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    create(&client(&index.url())).await;
    drop(index);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match EmbeddedIndex::start(folder.path(), 0).await {
            Ok(index) => return index.stop().await.unwrap(),
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
