//! Tests of durability across a kill or a power cut at any moment, a restart and a stop. They run
//! on the embedded endpoint only.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use qdrant_client::qdrant::vector_output::Vector;
use qdrant_client::qdrant::{
    CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder,
    DeletePointsBuilder, Distance, FieldType, GetPointsBuilder, OptimizersConfigDiffBuilder, PointId,
    PointStruct, PointsIdsList, RetrievedPoint, UpsertPointsBuilder, VectorParamsBuilder,
    WalConfigDiffBuilder,
};
use qdrant_client::{Payload, Qdrant};
use serde_json::json;
use unprompt_embedded_index::{EmbeddedIndex, EmbeddedIndexError};
use unprompt_test_disk::{Disk, Survivors};
use unprompt_test_qdrant::{KilledServer, client, serve_until_killed};
use unprompt_test_skipped::skipped;

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

fn vector(number: u64) -> Vec<f32> {
    (0..DIM).map(|i| ((number * 31 + i * 17) % 101) as f32 - 50.0).collect()
}

fn point(number: u64) -> PointStruct {
    PointStruct::new(number, vector(number), Payload::try_from(json!({"number": number})).unwrap())
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

/// The writes of all writers, across restarts.
#[derive(Clone, Default)]
struct Writes {
    next: Arc<AtomicU64>,
    acknowledged: Arc<Acknowledged>,
}

/// Writes until the server is gone and notes each acknowledgement. Occasionally deletes a point
/// that was written.
async fn write_until_killed(client: Qdrant, Writes { next, acknowledged }: Writes) {
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

/// The acknowledged writes that an index does not have.
#[derive(Debug, PartialEq, Eq)]
struct Lost {
    /// The points that were written and are missing or changed.
    missing: usize,
    /// The points that were deleted and came back.
    returned: usize,
}

/// Returns the number of a point if its vector belongs to it.
fn number_if_whole(found: &RetrievedPoint) -> Option<u64> {
    let number = found.payload["number"].as_integer()? as u64;
    let Some(Vector::Dense(stored)) = found.vectors.clone()?.get_vector() else { return None };
    let expected = vector(number);
    // The collection compares by cosine, so it stores unit vectors.
    let norm = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
    let is_close = |(stored, expected): (&f32, &f32)| (stored - expected / norm).abs() < 1e-6;
    let is_whole = stored.data.len() == expected.len() && stored.data.iter().zip(&expected).all(is_close);
    is_whole.then_some(number)
}

async fn lost(client: &Qdrant, acknowledged: &Acknowledged) -> Lost {
    let deleted: HashSet<u64> = acknowledged.deleted.lock().iter().copied().collect();
    let written = acknowledged.written.lock().clone();
    let expected: Vec<u64> = written.into_iter().filter(|number| !deleted.contains(number)).collect();
    let mut missing = 0;
    for chunk in expected.chunks(1000) {
        let ids: Vec<PointId> = chunk.iter().map(|number| (*number).into()).collect();
        let get = GetPointsBuilder::new(COLLECTION, ids).with_payload(true).with_vectors(true);
        let found = client.get_points(get).await.unwrap().result;
        let whole: HashSet<u64> = found.iter().filter_map(number_if_whole).collect();
        missing += chunk.iter().filter(|number| !whole.contains(number)).count();
    }
    let ids: Vec<PointId> = deleted.into_iter().map(Into::into).collect();
    let back = client.get_points(GetPointsBuilder::new(COLLECTION, ids)).await.unwrap().result;
    Lost { missing, returned: back.len() }
}

async fn check(client: &Qdrant, acknowledged: &Acknowledged) {
    assert_eq!(lost(client, acknowledged).await, Lost { missing: 0, returned: 0 });
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

/// Writes until `interrupt` ends the server: `delay` after an optimisation has started, or was not
/// seen within three seconds. Returns whether one had started.
async fn write_and_interrupt(
    server: KilledServer,
    folder: &Path,
    writes: &Writes,
    delay: Duration,
    interrupt: impl FnOnce(KilledServer),
) -> bool {
    let client = client(&server.url);
    let writers: Vec<_> =
        (0..3).map(|_| tokio::spawn(write_until_killed(client.clone(), writes.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    // A pause lets an optimisation start; the interruption then hits it together with concurrent
    // writes.
    writes.acknowledged.paused.store(true, Ordering::Relaxed);
    let has_started = wait_for_an_optimisation(folder).await;
    writes.acknowledged.paused.store(false, Ordering::Relaxed);
    tokio::time::sleep(delay).await;
    interrupt(server);
    for writer in writers {
        writer.await.unwrap();
    }
    has_started
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kills() {
    let folder = tempfile::tempdir().unwrap();
    let writes = Writes::default();
    let mut interrupted = 0;
    for round in 0..6u64 {
        let server = serve(folder.path());
        let client = client(&server.url);
        if round == 0 {
            create(&client).await;
        }
        check(&client, &writes.acknowledged).await;
        let delay = Duration::from_millis(20 + 40 * round);
        let near = write_and_interrupt(server, folder.path(), &writes, delay, KilledServer::kill).await;
        interrupted += u64::from(near);
    }
    assert!(writes.acknowledged.written.lock().len() > 1000, "too few writes to mean anything");
    assert!(interrupted > 0, "no kill came near an optimisation");
    let server = serve(folder.path());
    check(&client(&server.url), &writes.acknowledged).await;
    server.kill();
}

/// Cuts the power while segments are optimised and points are written. Returns whether the index
/// starts with all acknowledged writes after each cut.
async fn survives_power_cuts(mut disk: Disk) -> bool {
    let folder = disk.path().join("index");
    let writes = Writes::default();
    let mut interrupted = 0;
    let cuts = [
        Survivors::OnlySynced,
        Survivors::Some { seed: 1 },
        Survivors::OnlySynced,
        Survivors::Some { seed: 2 },
    ];
    for (round, survivors) in (0u64..).zip(cuts) {
        let server = serve(&folder);
        if round == 0 {
            create(&client(&server.url)).await;
        }
        let cut = |server: KilledServer| {
            disk.cut_power(survivors);
            server.kill();
        };
        let delay = Duration::from_millis(20 + 40 * round);
        interrupted += u64::from(write_and_interrupt(server, &folder, &writes, delay, cut).await);
        disk.restore().unwrap();
        let served = folder.clone();
        let Ok(server) = tokio::task::spawn_blocking(move || serve(&served)).await else { return false };
        let lost = lost(&client(&server.url), &writes.acknowledged).await;
        server.kill();
        if lost != (Lost { missing: 0, returned: 0 }) {
            println!("after {survivors:?}: {lost:?}");
            return false;
        }
    }
    assert!(writes.acknowledged.written.lock().len() > 300, "too few writes to mean anything");
    assert!(interrupted > 0, "no cut came near an optimisation");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_power_cuts_during_optimisations() {
    let Some(disk) = disk() else { return };
    assert!(survives_power_cuts(disk).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_syncs_of_point_ids_a_power_cut_loses_acknowledged_points() {
    let Some(disk) = disk() else { return };
    disk.ignore_syncs_of("/mutable_id_tracker.mappings");
    assert!(!survives_power_cuts(disk).await);
}

/// A disk that loses unsynced writes, or `None` where none can be mounted.
fn disk() -> Option<Disk> {
    Disk::mount().map_err(|error| skipped(&error.to_string())).ok()
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
