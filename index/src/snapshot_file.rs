//! The file of a snapshot: a parquet table of all prompts with their vectors. Its metadata says
//! what it was made from and holds the SHA-256 of its rows. Knows nothing of Qdrant.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use atomic_write_file::AtomicWriteFile;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{IndexError, Layout, MINILM_DIM, Profile, PromptPoint};

/// The version of the format that this build writes and reads.
const FORMAT: u32 = 1;
/// The key of our entry in the parquet file's metadata.
const KEY: &str = "unprompt_snapshot";
/// Rows of a row group, which is held in memory while it is written: about 40 MB.
const ROW_GROUP: usize = 10_000;

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
        Ok(open(path)?.0)
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
        let failed = |error: &dyn std::fmt::Display| unwritable(path, error);
        let file = AtomicWriteFile::open(path).map_err(|error| failed(&error))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .build();
        let writer = ArrowWriter::try_new(Hashed::new(file), schema(info.clip_dim), Some(properties));
        let writer = writer.map_err(|error| failed(&error))?;
        Ok(Self { path: path.to_owned(), info, writer })
    }

    pub fn write(&mut self, points: &[PromptPoint]) -> Result<(), IndexError> {
        let batch = to_batch(points, self.info.clip_dim).map_err(|error| unwritable(&self.path, &error))?;
        self.writer.write(&batch).map_err(|error| unwritable(&self.path, &error))?;
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

/// Reads a snapshot in batches, in row order.
pub(crate) struct SnapshotReader {
    path: PathBuf,
    rows: ParquetRecordBatchReader,
}

impl SnapshotReader {
    /// Opens the file after checking its hash, which reads all of it once.
    pub fn verified(path: &Path, batch: usize) -> Result<(SnapshotInfo, Self), IndexError> {
        let (info, builder) = open(path)?;
        verify(path, &info)?;
        let rows = builder.with_batch_size(batch).build().map_err(|error| damaged(path, &error))?;
        Ok((info, Self { path: path.to_owned(), rows }))
    }

    /// The next prompts; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Vec<PromptPoint>>, IndexError> {
        let Some(batch) = self.rows.next() else { return Ok(None) };
        let batch = batch.map_err(|error| damaged(&self.path, &error))?;
        let points =
            from_batch(&batch).ok_or_else(|| damaged(&self.path, &"a column is not as it should be"))?;
        Ok(Some(points))
    }
}

fn open(path: &Path) -> Result<(SnapshotInfo, ParquetRecordBatchReaderBuilder<File>), IndexError> {
    let refuse = |reason: String| IndexError::Snapshot { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| {
        refuse(format!("cannot be read: {error}; give the file that `index snapshot` wrote"))
    })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(path, &error))?;
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let text =
        entries.into_iter().flatten().find(|entry| entry.key == KEY).and_then(|entry| entry.value.clone());
    let text =
        text.ok_or_else(|| refuse("is a parquet file, but none that `index snapshot` wrote".into()))?;
    let info: SnapshotInfo = serde_json::from_str(&text).map_err(|error| damaged(path, &error))?;
    if info.format != FORMAT {
        let reason =
            format!("is of format {}, this build reads {FORMAT}; use the build that wrote it", info.format);
        return Err(refuse(reason));
    }
    if builder.schema().fields() != schema(info.clip_dim).fields() {
        return Err(damaged(path, &"its columns are not those of a snapshot"));
    }
    Ok((info, builder))
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

fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> IndexError {
    let reason = format!(
        "is damaged or was cut short: {reason}. Nothing of it was written to the index; use another copy of it"
    );
    IndexError::Snapshot { path: path.to_owned(), reason }
}

fn unwritable(path: &Path, reason: &dyn std::fmt::Display) -> IndexError {
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

fn schema(clip_dim: usize) -> Arc<Schema> {
    let vector = |name: &str, dim: usize| {
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        Field::new(name, DataType::FixedSizeList(item, i32::try_from(dim).unwrap_or(i32::MAX)), false)
    };
    let sources = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    Arc::new(Schema::new(vec![
        Field::new("prompt_id", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, false),
        Field::new("sources", sources, false),
        Field::new("created_at_ms", DataType::Int64, false),
        Field::new("attributes", DataType::Utf8, false),
        vector("minilm", MINILM_DIM),
        vector("clip", clip_dim),
    ]))
}

fn to_batch(points: &[PromptPoint], clip_dim: usize) -> Result<RecordBatch, ParquetError> {
    let (mut ids, mut texts, mut attributes) =
        (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut sources, mut created) = (ListBuilder::new(StringBuilder::new()), Int64Builder::new());
    let (mut minilm, mut clip) = (vectors(MINILM_DIM), vectors(clip_dim));
    for point in points {
        ids.append_value(point.prompt_id.to_string());
        texts.append_value(&point.text);
        sources.append_value(point.sources.iter().map(Some));
        created.append_value(point.created_at_ms);
        attributes.append_value(serde_json::to_string(&point.attributes).map_err(|error| external(&error))?);
        append(&mut minilm, &point.minilm)?;
        append(&mut clip, &point.clip)?;
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids.finish()),
        Arc::new(texts.finish()),
        Arc::new(sources.finish()),
        Arc::new(created.finish()),
        Arc::new(attributes.finish()),
        Arc::new(minilm.finish()),
        Arc::new(clip.finish()),
    ];
    RecordBatch::try_new(schema(clip_dim), columns).map_err(|error| external(&error))
}

fn vectors(dim: usize) -> FixedSizeListBuilder<Float32Builder> {
    FixedSizeListBuilder::new(Float32Builder::new(), i32::try_from(dim).unwrap_or(i32::MAX))
}

fn append(to: &mut FixedSizeListBuilder<Float32Builder>, vector: &[f32]) -> Result<(), ParquetError> {
    if i32::try_from(vector.len()) != Ok(to.value_length()) {
        let text = format!("a vector has {} values, not {}", vector.len(), to.value_length());
        return Err(ParquetError::General(text));
    }
    to.values().append_slice(vector);
    to.append(true);
    Ok(())
}

fn external(error: &dyn std::fmt::Display) -> ParquetError {
    ParquetError::General(error.to_string())
}

/// Converts a batch to prompts; `None` if a column does not have the type in the schema.
fn from_batch(batch: &RecordBatch) -> Option<Vec<PromptPoint>> {
    let column = |name: &str| batch.column_by_name(name);
    let ids = column("prompt_id")?.as_string_opt::<i32>()?;
    let texts = column("text")?.as_string_opt::<i32>()?;
    let sources = column("sources")?.as_list_opt::<i32>()?;
    let created = column("created_at_ms")?.as_primitive_opt::<Int64Type>()?;
    let attributes = column("attributes")?.as_string_opt::<i32>()?;
    let (minilm, clip) =
        (column("minilm")?.as_fixed_size_list_opt()?, column("clip")?.as_fixed_size_list_opt()?);
    let point = |row: usize| {
        let of_row = sources.value(row);
        let attributes: BTreeMap<String, String> = serde_json::from_str(attributes.value(row)).ok()?;
        Some(PromptPoint {
            prompt_id: Uuid::parse_str(ids.value(row)).ok()?,
            text: texts.value(row).to_owned(),
            sources: of_row.as_string_opt::<i32>()?.iter().flatten().map(str::to_owned).collect(),
            created_at_ms: created.value(row),
            attributes,
            minilm: minilm.value(row).as_primitive_opt::<Float32Type>()?.values().to_vec(),
            clip: clip.value(row).as_primitive_opt::<Float32Type>()?.values().to_vec(),
        })
    };
    (0..batch.num_rows()).map(point).collect()
}
