//! Tests of snapshot files: round trips, earlier versions, and hostile files.

use std::collections::BTreeMap;

use parquet::basic::Encoding;
use parquet::file::properties::WriterVersion;
use unprompt_schemas::records::{ATTRIBUTES_MAX_BYTES, PROMPT_MAX_BYTES};
use uuid::Uuid;

use super::*;
use crate::MINILM_DIM;
use crate::point::MAX_SOURCES;

const DIM: usize = 8;

/// The prompts of the golden file.
fn sample() -> Vec<PromptPoint> {
    (0..20u16)
        .map(|n| PromptPoint {
            prompt_id: Uuid::from_u128(n.into()),
            text: format!("a fish, no. {n}, {}", "in water ".repeat(n.into())),
            sources: (0..n % 3).map(|at| format!("source {at}")).collect(),
            created_at_ms: 1_700_000_000_000 + i64::from(n),
            version: None,
            attributes: BTreeMap::from([("n".to_owned(), n.to_string())]),
            minilm: (0..MINILM_DIM).map(|at| f32::from(n) - at as f32 / 64.0).collect(),
            clip: (0..DIM).map(|at| f32::from(n) + at as f32 / 64.0).collect(),
        })
        .collect()
}

fn write(path: &Path, points: &[PromptPoint], clip_dim: usize) -> SnapshotInfo {
    write_with(path, points, clip_dim, properties())
}

fn write_with(
    path: &Path,
    points: &[PromptPoint],
    clip_dim: usize,
    properties: WriterPropertiesBuilder,
) -> SnapshotInfo {
    let info = SnapshotInfo::new(&Layout::new("encoder@1", clip_dim, "minilm@1"));
    let mut writer = SnapshotWriter::with(path, info, properties).unwrap();
    writer.write(points).unwrap();
    writer.finish().unwrap()
}

fn read(path: &Path) -> Result<Vec<PromptPoint>, IndexError> {
    SnapshotReader::open(path)?.collect::<Result<Vec<_>, _>>().map(|batches| batches.concat())
}

/// Reads one batch after the other, and returns the number of rows.
fn count(path: &Path) -> usize {
    SnapshotReader::open(path).unwrap().map(|batch| batch.unwrap().len()).sum()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/snapshot.1.parquet")
}

#[test]
fn the_golden_file_is_read() {
    assert_eq!(read(&golden()).unwrap(), sample());
}

/// Run after the format has changed: `cargo test -p unprompt-index write_golden -- --ignored`.
#[test]
#[ignore = "writes a file; run it once after the format has changed"]
fn write_golden_file() {
    write(&golden(), &sample(), DIM);
}

fn prompt(n: u128, text: String, clip_dim: usize) -> PromptPoint {
    PromptPoint {
        prompt_id: Uuid::from_u128(n),
        text,
        sources: Vec::new(),
        created_at_ms: 0,
        version: None,
        attributes: BTreeMap::new(),
        minilm: vec![0.5; MINILM_DIM],
        clip: vec![0.5; clip_dim],
    }
}

#[test]
fn a_wrong_number_of_rows_in_the_metadata_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.parquet");
    let mut bytes = std::fs::read(golden()).unwrap();
    let points = br#""points":20"#;
    let at = bytes.windows(points.len()).position(|part| part == points).unwrap();
    bytes[at..at + points.len()].copy_from_slice(br#""points":10"#);
    std::fs::write(&path, bytes).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("other rows"));
}

#[test]
fn the_largest_allowed_prompts_are_read_back_in_bounded_memory() {
    let largest = |n| PromptPoint {
        sources: (0..MAX_SOURCES).map(|at| format!("{at:01024}")).collect(),
        // A control character takes six bytes in JSON.
        attributes: BTreeMap::from([("k".to_owned(), "\u{1}".repeat(ATTRIBUTES_MAX_BYTES))]),
        ..prompt(n, "x".repeat(PROMPT_MAX_BYTES), CLIP_MAX_DIM)
    };
    let points: Vec<_> = (0..150).map(largest).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("largest.parquet");
    assert_eq!(write(&path, &points, CLIP_MAX_DIM).points, 150);
    assert!(read(&path).unwrap() == points);
    let held = allocation_counter::measure(|| assert_eq!(count(&path), 150));
    assert!(held.bytes_max < 100 << 20, "it held {} MiB", held.bytes_max >> 20);
}

#[test]
fn short_rows_before_long_ones_do_not_make_pages_too_long() {
    let attributes = |n: u128| match n {
        0..=40 => BTreeMap::new(),
        _ => BTreeMap::from([("k".to_owned(), "\n".repeat(ATTRIBUTES_MAX_BYTES))]),
    };
    let text = |n: u128| if n < 60 { "short".to_owned() } else { "x".repeat(PROMPT_MAX_BYTES) };
    let points: Vec<_> =
        (0..100).map(|n| PromptPoint { attributes: attributes(n), ..prompt(n, text(n), DIM) }).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uneven.parquet");
    write(&path, &points, DIM);
    assert!(read(&path).unwrap() == points);
}

#[test]
fn long_pages_of_an_earlier_version_are_read() {
    // It wrote up to a thousand rows at once, and any number of sources into a row group.
    let points: Vec<_> = (0..600)
        .map(|n| PromptPoint {
            sources: (0..MAX_SOURCES).map(|at| format!("{at:0200}")).collect(),
            ..prompt(n, if n < 300 { "short".to_owned() } else { "x".repeat(PROMPT_MAX_BYTES) }, DIM)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("earlier.parquet");
    let info = SnapshotInfo::new(&Layout::new("encoder@1", DIM, "minilm@1"));
    let mut writer = SnapshotWriter::create(&path, info).unwrap();
    writer.write_rows(&points.iter().collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    assert!(read(&path).unwrap() == points);
}

#[test]
fn oversized_page_and_metadata_lengths_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("announced.parquet");
    let golden = std::fs::read(golden()).unwrap();
    let mut metadata = golden.clone();
    let at = metadata.len() - 8;
    metadata[at..at + 4].copy_from_slice(&(3u32 << 20).to_le_bytes());
    std::fs::write(&path, metadata).unwrap();
    assert!(SnapshotReader::open(&path).unwrap_err().to_string().contains("metadata has 3145728"));
    // A header with a compressed size of 2 GB in place of the first page's.
    let huge = [
        0x15, 0, 0x15, 8, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x2c, 0x15, 2, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0,
    ];
    let error = pages::page(&mut &huge[..], 4 << 20).unwrap_err();
    assert!(error.contains("2147483647 when compressed"), "{error}");
}

#[test]
fn a_folder_and_a_device_are_refused() {
    for path in ["/tmp", "/dev/zero"] {
        let error = SnapshotReader::open(Path::new(path)).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn highly_compressed_texts_are_read_in_bounded_memory() {
    let points: Vec<_> = (0..1000).map(|n| prompt(n, "x".repeat(PROMPT_MAX_BYTES), DIM)).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.parquet");
    write(&path, &points, DIM);
    drop(points);
    let held = allocation_counter::measure(|| assert_eq!(count(&path), 1000));
    assert!(held.bytes_max < 100 << 20, "it held {} MiB", held.bytes_max >> 20);
}

#[test]
fn unsupported_parquet_features_are_refused_before_decoding() {
    let points: Vec<_> = (0..1100).map(|n| prompt(n, "x".repeat(PROMPT_MAX_BYTES), DIM)).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.parquet");
    // A page as large as a column.
    write_with(&path, &points, DIM, properties().set_data_page_size_limit(1 << 30));
    let mut refused = None;
    let held = allocation_counter::measure(|| refused = read(&path).err());
    assert!(refused.unwrap().to_string().contains("are the most"));
    assert!(held.bytes_max < 2 << 20, "it held {} KiB", held.bytes_max >> 10);
    let others = [
        properties().set_dictionary_enabled(true),
        properties().set_compression(Compression::SNAPPY),
        properties().set_writer_version(WriterVersion::PARQUET_2_0),
        properties().set_column_encoding("text".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY),
    ];
    for other in others {
        write_with(&path, &points[..90], DIM, other);
        let mut refused = None;
        let held = allocation_counter::measure(|| refused = read(&path).err());
        assert!(matches!(refused, Some(IndexError::Snapshot { .. })), "{refused:?}");
        assert!(held.bytes_max < 2 << 20, "it held {} KiB", held.bytes_max >> 10);
    }
}
