//! The file of a snapshot: a parquet table of all prompts with their vectors. Its metadata says
//! what it was made from and holds the SHA-256 of its rows. Knows nothing of Qdrant.

mod pages;
mod rows;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atomic_write_file::AtomicWriteFile;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{IndexError, Layout, Profile, PromptPoint};
use rows::{from_batch, schema, to_batch};

/// The version of the format that this build writes and reads.
const FORMAT: u32 = 1;
/// The key of our entry in the parquet file's metadata.
const KEY: &str = "unprompt_snapshot";
/// Rows of a row group, which is held in memory while it is written: about 40 MB.
const ROW_GROUP: usize = 10_000;
/// Bytes of the sources in a row group, which ends before it has more.
const SOURCES_MAX_BYTES: u64 = 32 << 20;
/// Rows that are written at once; their sources have fewer bytes than a row group's.
const ROWS: usize = 100;
/// The longest vector, which is also Qdrant's limit.
const CLIP_MAX_DIM: usize = 65_536;

/// The origin and contents of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    pub format: u32,
    /// The image encoder as `name@revision`.
    pub encoder: String,
    /// The sentence encoder as `name@revision`.
    pub minilm: String,
    pub clip_dim: usize,
    pub profile: Profile,
    pub points: u64,
    /// The hash of all bytes before the parquet footer.
    sha256: String,
    bytes: u64,
}

impl SnapshotInfo {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            format: FORMAT,
            encoder: layout.encoder.clone(),
            minilm: layout.minilm.clone(),
            clip_dim: layout.clip_dim,
            profile: layout.profile,
            points: 0,
            sha256: String::new(),
            bytes: 0,
        }
    }

    /// The layout of a collection for this snapshot.
    pub fn layout(&self) -> Layout {
        Layout::new(self.encoder.clone(), self.clip_dim, self.minilm.clone()).profile(self.profile)
    }

    /// Reads the metadata of the file at `path`.
    ///
    /// # Errors
    /// [`IndexError::Snapshot`] for a file that is not a snapshot, is truncated, or has another
    /// format version.
    pub fn read(path: &Path) -> Result<Self, IndexError> {
        Ok(open(path)?.1)
    }
}

/// Writes a snapshot to a temporary file; [`SnapshotWriter::finish`] gives it its name.
pub(crate) struct SnapshotWriter {
    path: PathBuf,
    info: SnapshotInfo,
    writer: ArrowWriter<Hashed<AtomicWriteFile>>,
    /// Bytes of the sources in the row group that is being written.
    sources_bytes: u64,
}

impl SnapshotWriter {
    pub fn create(path: &Path, info: SnapshotInfo) -> Result<Self, IndexError> {
        Self::with(path, info, properties())
    }

    fn with(
        path: &Path,
        info: SnapshotInfo,
        properties: WriterPropertiesBuilder,
    ) -> Result<Self, IndexError> {
        let failed = |error: &dyn fmt::Display| unwritable(path, error);
        let file = AtomicWriteFile::open(path).map_err(|error| failed(&error))?;
        let writer = ArrowWriter::try_new(Hashed::new(file), schema(info.clip_dim), Some(properties.build()));
        let writer = writer.map_err(|error| failed(&error))?;
        Ok(Self { path: path.to_owned(), info, writer, sources_bytes: 0 })
    }

    pub fn write(&mut self, points: &[PromptPoint]) -> Result<(), IndexError> {
        points
            .chunks(ROWS)
            .try_for_each(|points| self.write_rows(points))
            .map_err(|e| unwritable(&self.path, &e))
    }

    fn write_rows(&mut self, points: &[PromptPoint]) -> Result<(), ParquetError> {
        let bytes: u64 = points.iter().flat_map(|point| &point.sources).map(|s| s.len() as u64 + 8).sum();
        if self.sources_bytes + bytes > SOURCES_MAX_BYTES {
            self.writer.flush()?;
            self.sources_bytes = 0;
        }
        self.sources_bytes += bytes;
        self.writer.write(&to_batch(points, self.info.clip_dim)?)?;
        self.info.points += points.len() as u64;
        Ok(())
    }

    /// Syncs the file and gives it its name.
    pub fn finish(self) -> Result<SnapshotInfo, IndexError> {
        let path = self.path.clone();
        self.commit().map_err(|error| unwritable(&path, &error))
    }

    fn commit(mut self) -> io::Result<SnapshotInfo> {
        self.writer.flush()?;
        self.writer.sync()?;
        (self.info.sha256, self.info.bytes) = self.writer.inner().so_far();
        let info = serde_json::to_string(&self.info)?;
        self.writer.append_key_value_metadata(KeyValue::new(KEY.to_owned(), info));
        self.writer.into_inner()?.inner.commit()?;
        // Syncs the folder, so that the name survives a power failure.
        let folder = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(self.info)
    }
}

/// The encoding of a snapshot; [`pages`] refuses others.
fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(ROW_GROUP))
}

/// The prompts of a snapshot in batches, in row order. It needs no index.
///
/// Whatever the file holds, reading takes at most about 200 MB.
pub struct SnapshotReader {
    path: PathBuf,
    info: SnapshotInfo,
    rows: ParquetRecordBatchReader,
}

impl SnapshotReader {
    /// Opens the file after checking its hash, which reads all of it once.
    ///
    /// # Errors
    /// [`IndexError::Snapshot`] for a file that [`SnapshotInfo::read`] refuses, for a damaged one,
    /// and for sizes that no snapshot has.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let (file, info, metadata) = open(path)?;
        verify(path, &info)?;
        let batch = pages::check(&file, metadata.metadata(), &info);
        let batch = batch.map_err(|error| damaged(path, &error))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let rows = builder.with_batch_size(batch).build().map_err(|error| damaged(path, &error))?;
        Ok(Self { path: path.to_owned(), info, rows })
    }

    /// The origin and contents of the snapshot.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader").field("path", &self.path).field("info", &self.info).finish()
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<Vec<PromptPoint>, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let points = self.rows.next()?.map_err(|error| damaged(&self.path, &error)).and_then(|batch| {
            from_batch(&batch).ok_or_else(|| damaged(&self.path, &"a column is not as it should be"))
        });
        Some(points)
    }
}

/// Reads the file's metadata. The types of the columns are this build's, not those that the file
/// tells.
fn open(path: &Path) -> Result<(File, SnapshotInfo, ArrowReaderMetadata), IndexError> {
    let refuse = |reason: String| IndexError::Snapshot { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| {
        refuse(format!("cannot be read: {error}; give the file that `index snapshot` wrote"))
    })?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file);
    let metadata = Arc::new(metadata.map_err(|error| damaged(path, &error))?);
    let entries = metadata.file_metadata().key_value_metadata();
    let text =
        entries.into_iter().flatten().find(|entry| entry.key == KEY).and_then(|entry| entry.value.as_deref());
    let text =
        text.ok_or_else(|| refuse("is a parquet file, but none that `index snapshot` wrote".into()))?;
    let info: SnapshotInfo = serde_json::from_str(text).map_err(|error| damaged(path, &error))?;
    if info.format != FORMAT {
        let reason =
            format!("is of format {}, this build reads {FORMAT}; use the build that wrote it", info.format);
        return Err(refuse(reason));
    }
    if info.clip_dim == 0 || info.clip_dim > CLIP_MAX_DIM {
        return Err(damaged(path, &format!("its vectors have {} values", info.clip_dim)));
    }
    let options = ArrowReaderOptions::new().with_schema(schema(info.clip_dim));
    let metadata = ArrowReaderMetadata::try_new(metadata, options)
        .map_err(|_| damaged(path, &"its columns are not those of a snapshot"))?;
    Ok((file, info, metadata))
}

fn verify(path: &Path, info: &SnapshotInfo) -> Result<(), IndexError> {
    let mut hashed = Hashed::new(io::sink());
    let read = File::open(path).and_then(|file| io::copy(&mut file.take(info.bytes), &mut hashed));
    read.map_err(|error| damaged(path, &error))?;
    if hashed.so_far() != (info.sha256.clone(), info.bytes) {
        return Err(damaged(path, &"its rows have not the checksum that they were written with"));
    }
    Ok(())
}

fn damaged(path: &Path, reason: &dyn fmt::Display) -> IndexError {
    let reason = format!(
        "is damaged or was cut short: {reason}. Nothing of it was written to the index; use another copy of it"
    );
    IndexError::Snapshot { path: path.to_owned(), reason }
}

fn unwritable(path: &Path, reason: &dyn fmt::Display) -> IndexError {
    let reason = format!("cannot be written: {reason}; see that its folder is there and has room");
    IndexError::Snapshot { path: path.to_owned(), reason }
}

/// Counts and hashes the bytes that pass through.
struct Hashed<W> {
    inner: W,
    sha256: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, sha256: Sha256::new(), bytes: 0 }
    }

    fn so_far(&self) -> (String, u64) {
        (format!("{:x}", self.sha256.clone().finalize()), self.bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sha256.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
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
                updated_at_ms: 0,
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
            updated_at_ms: 0,
            attributes: BTreeMap::new(),
            minilm: vec![0.5; MINILM_DIM],
            clip: vec![0.5; clip_dim],
        }
    }

    #[test]
    fn a_number_of_rows_that_is_not_the_file_s_is_refused() {
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
    fn the_largest_prompts_that_there_may_be_come_back() {
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
    fn texts_that_expand_are_read_a_few_at_a_time() {
        let points: Vec<_> = (0..1000).map(|n| prompt(n, "x".repeat(PROMPT_MAX_BYTES), DIM)).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.parquet");
        write(&path, &points, DIM);
        drop(points);
        let held = allocation_counter::measure(|| assert_eq!(count(&path), 1000));
        assert!(held.bytes_max < 100 << 20, "it held {} MiB", held.bytes_max >> 20);
    }

    #[test]
    fn what_a_snapshot_does_not_have_is_refused_before_it_is_decoded() {
        let points: Vec<_> = (0..90).map(|n| prompt(n, "x".repeat(PROMPT_MAX_BYTES), DIM)).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.parquet");
        let others = [
            properties().set_dictionary_enabled(true),
            properties().set_compression(Compression::SNAPPY),
            properties().set_writer_version(WriterVersion::PARQUET_2_0),
            // Pages as large as a column.
            properties().set_data_page_size_limit(1 << 30),
            properties().set_column_encoding("text".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY),
        ];
        for other in others {
            write_with(&path, &points, DIM, other);
            let mut refused = None;
            let held = allocation_counter::measure(|| refused = read(&path).err());
            assert!(matches!(refused, Some(IndexError::Snapshot { .. })), "{refused:?}");
            assert!(held.bytes_max < 2 << 20, "it held {} KiB", held.bytes_max >> 10);
        }
    }
}
