//! Tests of faults around the embedded endpoint: a full disk and damaged files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qdrant_client::qdrant::{CountPointsBuilder, PointStruct, QueryPointsBuilder, UpsertPointsBuilder};
use qdrant_client::{Payload, Qdrant, QdrantError};
use tonic::Code;
use unprompt_embedded_index::{EmbeddedIndex, EmbeddedIndexError};
use unprompt_test_qdrant::{client, small, upsert};
use unprompt_test_skipped::skipped;

/// The folder of the only collection.
fn collection(folder: &Path) -> PathBuf {
    fs::read_dir(folder.join("collections")).unwrap().flatten().next().unwrap().path()
}

fn point(number: u64) -> PointStruct {
    PointStruct::new(number, vec![1.0 + number as f32, 1.0, 0.0, 0.0], Payload::new())
}

async fn count(client: &Qdrant, name: &str) -> u64 {
    client.count(CountPointsBuilder::new(name).exact(true)).await.unwrap().result.unwrap().count
}

/// A small separate file system, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    const MEGABYTES: usize = 420;

    /// Mounts the file system; None if this process may not mount one.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={}m", Self::MEGABYTES);
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_to_a_full_disk_are_refused_without_loss_until_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        return skipped("a small disk cannot be mounted without root");
    };
    let folder = disk.0.path().join("index");
    let index = EmbeddedIndex::start(&folder, 0).await.unwrap();
    let qdrant = client(&index.url());
    qdrant.create_collection(small("full")).await.unwrap();
    upsert(&qdrant, "full", (0..100).map(point).collect()).await;
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1u8; 250 << 20]).unwrap();
    let refused = qdrant.upsert_points(UpsertPointsBuilder::new("full", vec![point(100)]).wait(true)).await;
    let Err(QdrantError::ResourceExhaustedError { status, .. } | QdrantError::ResponseError { status }) =
        refused
    else {
        panic!("a write to a full disk was accepted: {refused:?}");
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("make room") && status.message().contains("MB free"), "{status:?}");
    let refused = qdrant.create_collection(small("another")).await.unwrap_err();
    assert!(refused.to_string().contains("make room"), "{refused}");
    // Existing points are found, also after a restart on the full disk.
    let query = QueryPointsBuilder::new("full").query(vec![1.0, 1.0, 0.0, 0.0]).limit(1);
    assert_eq!(qdrant.query(query).await.unwrap().result.len(), 1);
    index.stop().await.unwrap();
    let index = EmbeddedIndex::start(&folder, 0).await.unwrap();
    let qdrant = client(&index.url());
    assert_eq!(count(&qdrant, "full").await, 100);
    fs::remove_file(ballast).unwrap();
    upsert(&qdrant, "full", (50..150).map(point).collect()).await;
    assert_eq!(count(&qdrant, "full").await, 150);
    index.stop().await.unwrap();
}

/// A folder with a collection of 100 points that was stopped cleanly.
async fn stopped() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
    let qdrant = client(&index.url());
    qdrant.create_collection(small("damaged")).await.unwrap();
    upsert(&qdrant, "damaged", (0..100).map(point).collect()).await;
    drop(qdrant);
    index.stop().await.unwrap();
    folder
}

/// All files below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    let deeper: Vec<_> = found.iter().filter(|path| path.is_dir()).flat_map(|path| files(path)).collect();
    found.retain(|path| path.is_file());
    found.extend(deeper);
    found.sort();
    found
}

/// Starts on a damaged folder: either it is refused with its name and advice (true), or all points
/// are there (false).
async fn refused_or_whole(folder: &Path, damage: &str) -> bool {
    match EmbeddedIndex::start(folder, 0).await {
        Err(error) => {
            let (text, at) = (error.to_string(), collection(folder));
            assert!(matches!(error, EmbeddedIndexError::Damaged { .. }), "{damage}: {text}");
            assert!(text.contains(at.to_str().unwrap()), "{damage}: {text}");
            assert!(text.contains("move it away"), "{damage}: {text}");
            true
        }
        Ok(index) => {
            let found = count(&client(&index.url()), "damaged").await;
            index.stop().await.unwrap();
            assert_eq!(found, 100, "{damage}: points are missing without an error");
            false
        }
    }
}

/// Flips a bit of every 64th byte.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes.iter_mut().step_by(64).for_each(|byte| *byte ^= 1);
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_file_is_an_error_or_loses_no_points() {
    let whole = stopped().await;
    let names: Vec<_> =
        files(whole.path()).into_iter().filter(|file| file.starts_with(collection(whole.path()))).collect();
    let mut refused = 0;
    for file in &names {
        for damage in ["emptied", "removed", "flipped"] {
            let is_log = file.parent().is_some_and(|parent| parent.ends_with("wal"));
            if damage == "flipped" && !is_log {
                continue; // only the log has checksums
            }
            let copy = tempfile::tempdir().unwrap();
            let output = Command::new("cp").arg("-r").arg(whole.path().join(".")).arg(copy.path()).status();
            assert!(output.unwrap().success());
            let place = copy.path().join(file.strip_prefix(whole.path()).unwrap());
            match damage {
                "emptied" => fs::write(&place, "").unwrap(),
                "removed" => fs::remove_file(&place).unwrap(),
                _ => flip(&place),
            }
            let damage = format!("{damage} {}", place.display());
            refused += usize::from(refused_or_whole(copy.path(), &damage).await);
        }
    }
    assert!(refused > 0, "no damage to any of {} files was detected", names.len());
}

/// Adds a copy of the collection's segment. Returns its folder.
fn add_segment(folder: &Path, is_marked: bool) -> PathBuf {
    let segments = collection(folder).join("segments");
    let whole = fs::read_dir(&segments).unwrap().flatten().next().unwrap().path();
    let added = segments.join("00000000-0000-4000-8000-000000000000");
    assert!(Command::new("cp").arg("-r").args([&whole, &added]).status().unwrap().success());
    if !is_marked {
        fs::remove_file(added.join("synced")).unwrap();
    }
    added
}

/// A power cut leaves files empty that were just created.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_opens_whichever_file_of_a_segment_that_was_never_synced_is_empty() {
    let names: Vec<_> = {
        let example = stopped().await;
        let added = add_segment(example.path(), false);
        files(&added).iter().map(|file| file.strip_prefix(&added).unwrap().to_owned()).collect()
    };
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let folder = stopped().await;
        let emptied = add_segment(folder.path(), false).join(&name);
        fs::write(&emptied, "").unwrap();
        assert!(!refused_or_whole(folder.path(), &format!("an empty {}", name.display())).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_segment_is_left_out_only_if_it_was_never_synced() {
    for is_marked in [false, true] {
        let folder = stopped().await;
        let added = add_segment(folder.path(), is_marked);
        let payload: Vec<_> =
            files(&added).into_iter().filter(|file| file.to_string_lossy().contains("payload")).collect();
        assert!(!payload.is_empty());
        payload.iter().for_each(|file| fs::write(file, "").unwrap());
        let is_refused = refused_or_whole(folder.path(), "a segment with an empty payload").await;
        assert_eq!(is_refused, is_marked);
    }
}
