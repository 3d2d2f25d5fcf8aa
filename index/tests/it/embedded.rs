//! The prompt index on the embedded endpoint: the server is killed during a load, the profile
//! changes.

use std::fs;
use std::path::Path;

use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Filter, Profile, PromptIndex, PromptPoint};
use unprompt_test_qdrant::{KilledServer, serve_until_killed};

use crate::prompt_index::{layout, prompt};

/// Enough for a graph: 10,000 KB of the MiniLM vectors are 6,827 prompts.
const POINTS: u64 = 8_000;

/// Not a test: the server in a child process, which runs until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the server of the tests that kill one"]
async fn child() {
    serve_until_killed().await;
}

fn serve(folder: &Path) -> KilledServer {
    KilledServer::start(folder, "embedded::child")
}

async fn connect(url: &str) -> PromptIndex {
    PromptIndex::connect(url, ConnectOptions::default()).await.unwrap()
}

fn prompts(numbers: std::ops::Range<u64>) -> Vec<PromptPoint> {
    numbers.map(|n| prompt(n, "a", 0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_load_resumes_after_the_server_is_killed() {
    const COUNT: u64 = 9_000;
    const BATCH: u64 = 500;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let index = connect(&server.url).await;
    index.ensure(&layout()).await.unwrap();
    index.begin_bulk().await.unwrap();
    let (sender, mut acknowledged) = tokio::sync::watch::channel(0);
    let loader = tokio::spawn(async move {
        for first in (0..COUNT).step_by(BATCH as usize) {
            match index.upsert(prompts(first..first + BATCH)).await {
                Ok(()) => sender.send_replace(first + BATCH),
                Err(error) => return Some(error),
            };
        }
        None
    });
    acknowledged.wait_for(|count| *count >= COUNT / 3).await.unwrap();
    server.kill();
    let error = loader.await.unwrap().expect("the load ends with the server");
    assert!(error.is_transient(), "{error}");
    let safe = *acknowledged.borrow();
    let server = serve(folder.path());
    let index = connect(&server.url).await;
    let info = index.info().await.unwrap();
    assert!(info.bulk && info.indexed_vectors == 0, "the load is still in progress: {info:?}");
    index.begin_bulk().await.unwrap();
    let there = index.upsert_missing(prompts(0..COUNT)).await.unwrap();
    assert!(there >= safe && there < COUNT, "{there} were there, {safe} had been acknowledged");
    let info = index.finish_bulk(|_| {}).await.unwrap();
    assert!(info.points == COUNT && info.indexed_vectors >= COUNT, "{info:?}");
    assert_eq!(index.count(&Filter::default()).await.unwrap(), COUNT);
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_build_interrupted_by_a_kill_completes_after_the_restart() {
    const COUNT: u64 = 9_000;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let index = connect(&server.url).await;
    index.ensure(&layout()).await.unwrap();
    index.begin_bulk().await.unwrap();
    index.upsert(prompts(0..COUNT)).await.unwrap();
    let building = tokio::spawn(async move { index.finish_bulk(|_| {}).await });
    while !is_building(folder.path()) {
        assert!(!building.is_finished(), "the graph was built before the kill");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    server.kill();
    building.await.unwrap().unwrap_err();
    let server = serve(folder.path());
    let info = connect(&server.url).await.finish_bulk(|_| {}).await.unwrap();
    assert!(info.points == COUNT && info.indexed_vectors >= COUNT, "{info:?}");
    server.kill();
}

/// Returns whether a segment of the only collection is being built.
fn is_building(folder: &Path) -> bool {
    let collection = fs::read_dir(folder.join("collections")).unwrap().flatten().next().unwrap();
    let unfinished = collection.path().join("temp_segments");
    fs::read_dir(unfinished).is_ok_and(|mut entries| entries.next().is_some())
}

/// The compressed vectors' settings in the files of the segments.
fn quantised(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(quantised(&path));
        } else if path.ends_with("quantized.config.json") {
            found.extend(std::fs::read_to_string(&path).map(|text| format!("{}: {text}", path.display())));
        }
    }
    found
}

fn are(quantised: &[String], kind: &str) -> bool {
    !quantised.is_empty() && quantised.iter().all(|config| config.contains(kind))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_change_requantises_every_segment() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    let index = PromptIndex::connect(&endpoint.url(), ConnectOptions::default()).await.unwrap();
    index.ensure(&layout()).await.unwrap();
    index.upsert((0..POINTS).map(|n| prompt(n, "a", 0)).collect()).await.unwrap();
    index.finish_bulk(|_| {}).await.unwrap();
    let before = quantised(folder.path());
    assert!(are(&before, "scalar"), "{before:?}");
    index.change_profile(Profile::SmallMemory).await.unwrap();
    let info = index.finish_bulk(|_| {}).await.unwrap();
    let after = quantised(folder.path());
    assert!(are(&after, "turbo"), "{after:#?}, {info:?}");
    assert_eq!(info.points, POINTS);
    endpoint.stop().await.unwrap();
}
