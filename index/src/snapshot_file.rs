//! The file of a snapshot: a parquet table of all prompts with their vectors. Its metadata says
//! what it was made from and holds the SHA-256 of its rows. Knows nothing of Qdrant.

mod pages;
mod rows;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
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
use unprompt_schemas::records::attributes_bytes;

use crate::chunks::chunks;
use crate::{IndexError, Layout, Profile, PromptPoint};
use rows::{first_rows, from_batch, schema, to_batch};

/// The version of the format that this build writes and reads.
const FORMAT: u32 = 1;
/// The key of our entry in the parquet file's metadata.
const KEY: &str = "unprompt_snapshot";
/// Rows of a row group, which is held in memory while it is written: about 40 MB.
const ROW_GROUP: usize = 10_000;
/// Rows that are written at once, at most.
const ROWS: usize = 100;
/// Bytes of the texts that are written at once, or one row. Parquet ends the pages of one write by
/// the size of its first values.
const ROWS_BYTES: usize = 1 << 20;
/// The most metadata of a snapshot, besides a thousandth of the file. It has about a
/// ten-thousandth.
const METADATA_MAX_BYTES: u64 = 1 << 20;
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
        Ok(Self { path: path.to_owned(), info, writer })
    }

    pub fn write(&mut self, points: &[PromptPoint]) -> Result<(), IndexError> {
        // A character of the attributes takes at most six bytes in JSON.
        let bytes = |point: &&PromptPoint| {
            let sources: usize = point.sources.iter().map(|source| source.len() + 8).sum();
            point.text.len() + sources + 6 * attributes_bytes(&point.attributes)
        };
        let mut runs = chunks(points, (ROWS, ROWS_BYTES), bytes);
        runs.try_for_each(|run| self.write_rows(&run)).map_err(|error| unwritable(&self.path, &error))
    }

    fn write_rows(&mut self, points: &[&PromptPoint]) -> Result<(), ParquetError> {
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
/// Reading takes at most about 400 MB, whatever the file holds, and several times its metadata,
/// which may have a thousandth of the file.
pub struct SnapshotReader {
    path: PathBuf,
    info: SnapshotInfo,
    rows: ParquetRecordBatchReader,
    /// Decoded rows that have not been returned.
    decoded: Option<RecordBatch>,
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
        Ok(Self { path: path.to_owned(), info, rows, decoded: None })
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
        let batch = match self.decoded.take() {
            Some(batch) => batch,
            None => match self.rows.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(damaged(&self.path, &error))),
            },
        };
        let points = first_rows(&batch).and_then(|count| {
            let rest = batch.num_rows() - count;
            self.decoded = (rest > 0).then(|| batch.slice(count, rest));
            from_batch(&batch.slice(0, count))
        });
        Some(points.ok_or_else(|| damaged(&self.path, &"a column is not as it should be")))
    }
}

/// Reads the file's metadata. The types of the columns are this build's, not those that the file
/// tells.
fn open(path: &Path) -> Result<(File, SnapshotInfo, ArrowReaderMetadata), IndexError> {
    let refuse = |reason: String| IndexError::Snapshot { path: path.to_owned(), reason };
    let unreadable = |error: &dyn fmt::Display| {
        refuse(format!("cannot be read: {error}; give the file that `index snapshot` wrote"))
    };
    // Opening a pipe would wait for its other end.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(unreadable(&"it is not a regular file"));
    }
    let mut file = File::open(path).map_err(|error| unreadable(&error))?;
    check_metadata_size(&mut file).map_err(|error| damaged(path, &error))?;
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

/// Checks the size of the metadata, which is parsed to several times as much. The last bytes of a
/// file are that size and a mark.
fn check_metadata_size(file: &mut File) -> io::Result<()> {
    let (bytes, mut end) = (file.metadata()?.len(), [0; 8]);
    file.seek(SeekFrom::Start(bytes.saturating_sub(8)))?;
    file.read_exact(&mut end)?;
    let metadata = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    if metadata > METADATA_MAX_BYTES + bytes / 1000 {
        return Err(io::Error::other(format!("its metadata has {metadata} bytes")));
    }
    Ok(())
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
