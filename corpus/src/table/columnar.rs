//! Tables as parquet, one row group whenever enough rows have been buffered. It knows nothing of
//! files and names.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::builder::{
    Float32Builder, Int64Builder, ListBuilder, MapBuilder, StringBuilder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::output::Output;
use super::{Columns, ExportRow, length};
use crate::CorpusError;

/// The rows converted to columns at once.
const BATCH: usize = 4_096;

/// The bytes buffered before a row group is written, which bounds a writer's memory.
const ROW_GROUP_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct ParquetTable {
    writer: ArrowWriter<Output>,
    columns: Columns,
    path: PathBuf,
}

impl ParquetTable {
    pub fn create(output: Output, columns: Columns) -> Result<Self, CorpusError> {
        let path = output.path().to_owned();
        let failed = |error: ParquetError| CorpusError::unwritable(&path, error);
        let empty = batch(&[], columns).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .build();
        let writer = ArrowWriter::try_new(output, empty.schema(), Some(properties)).map_err(failed)?;
        Ok(Self { writer, columns, path })
    }

    pub fn write(&mut self, rows: &[ExportRow]) -> Result<(), CorpusError> {
        for rows in rows.chunks(BATCH) {
            let written = batch(rows, self.columns).and_then(|batch| self.writer.write(&batch));
            written.map_err(|error| CorpusError::unwritable(&self.path, error))?;
        }
        Ok(())
    }

    pub fn finish(self) -> Result<(), CorpusError> {
        // Writes the buffered rows and the footer.
        let output = self.writer.into_inner().map_err(|error| CorpusError::unwritable(&self.path, error))?;
        output.finish()
    }
}

/// Returns the columns of `rows`, in the order of their names.
fn batch(rows: &[ExportRow], columns: Columns) -> Result<RecordBatch, ParquetError> {
    let mut arrays: Vec<ArrayRef> = vec![
        strings(rows.iter().map(|row| row.prompt_id.to_string())),
        strings(rows.iter().map(|row| row.text.as_str())),
        string_lists(rows.iter().map(|row| row.sources.as_slice())),
        Arc::new(rows.iter().map(|row| row.created_at_ms).collect::<arrow_array::Int64Array>()),
        attributes(rows)?,
        lengths(rows),
    ];
    if columns.similarity {
        arrays.push(Arc::new(rows.iter().map(|row| row.similarity).collect::<arrow_array::Float32Array>()));
    }
    if columns.seeds {
        arrays.push(seeds(rows));
    }
    if columns.vectors {
        arrays.push(vectors(rows.iter().map(|row| row.minilm.as_deref())));
        arrays.push(vectors(rows.iter().map(|row| row.clip.as_deref())));
    }
    // All nullable, so that every batch has the same schema as the first.
    let fields = columns.names().into_iter().zip(arrays).map(|(name, array)| (name, array, true));
    Ok(RecordBatch::try_from_iter_with_nullable(fields)?)
}

fn strings<S: AsRef<str>>(values: impl Iterator<Item = S>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    values.for_each(|value| builder.append_value(value));
    Arc::new(builder.finish())
}

fn string_lists<'a>(lists: impl Iterator<Item = &'a [String]>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    lists.for_each(|list| builder.append_value(list.iter().map(Some)));
    Arc::new(builder.finish())
}

fn attributes(rows: &[ExportRow]) -> Result<ArrayRef, ParquetError> {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (key, value) in &row.attributes {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true)?;
    }
    Ok(Arc::new(builder.finish()))
}

fn lengths(rows: &[ExportRow]) -> ArrayRef {
    let mut builder = UInt64Builder::new();
    rows.iter().for_each(|row| builder.append_value(length(&row.text)));
    Arc::new(builder.finish())
}

fn seeds(rows: &[ExportRow]) -> ArrayRef {
    let mut builder = ListBuilder::new(Int64Builder::new());
    rows.iter().for_each(|row| builder.append_value(row.seeds.iter().copied().map(Some)));
    Arc::new(builder.finish())
}

fn vectors<'a>(vectors: impl Iterator<Item = Option<&'a [f32]>>) -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new());
    for vector in vectors {
        if let Some(vector) = vector {
            builder.values().append_slice(vector);
        }
        builder.append(vector.is_some());
    }
    Arc::new(builder.finish())
}
