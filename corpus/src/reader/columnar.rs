//! Parquet: reads only the needed columns of each row group, a few rows at a time.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;
use serde_json::{Map, Value};

use super::bytes::Counter;
use super::columns::{Chosen, Columns};
use super::{ReadFault, RowEntry, Rows};
use crate::CorpusError;
use crate::remote::RemoteChunks;
use crate::row::{BadRow, Row};
use crate::source::{Input, InputLocation};

/// The rows held at once.
const BATCH: usize = 1_024;

pub(super) struct ParquetRows {
    batches: ParquetRecordBatchReader,
    chosen: Chosen,
    /// The texts by column number; none for a column that is not read.
    columns: Vec<Option<StringArray>>,
    rows_in_batch: usize,
    at: usize,
    row: u64,
    total: u64,
    size: u64,
    counter: Counter,
}

impl ParquetRows {
    pub fn open(input: &Input, columns: &Columns, counter: Counter) -> Result<Self, CorpusError> {
        match &input.location {
            InputLocation::File(path) => {
                let file = std::fs::File::open(path);
                Self::of(
                    file.map_err(|error| CorpusError::unreadable(&input.name, error))?,
                    input,
                    columns,
                    counter,
                )
            }
            InputLocation::Remote(file) => Self::of(RemoteChunks(file.clone()), input, columns, counter),
            InputLocation::Stdin => Err(CorpusError::NotSeekable { input: input.name.clone() }),
        }
    }

    fn of<T: ChunkReader + 'static>(
        chunks: T,
        input: &Input,
        columns: &Columns,
        counter: Counter,
    ) -> Result<Self, CorpusError> {
        let damaged = |reason: String| CorpusError::Damaged { input: input.name.clone(), rows: 0, reason };
        let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new(chunks)).map_err(damaged)?;
        let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        let chosen = columns.choose(&names, &input.name)?;
        let total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let mask = ProjectionMask::roots(builder.parquet_schema(), chosen.all());
        let batches =
            guarded(|| builder.with_projection(mask).with_batch_size(BATCH).build()).map_err(damaged)?;
        let columns = vec![None; names.len()];
        let (size, rows_in_batch) = (input.size.unwrap_or(0), 0);
        Ok(Self { batches, chosen, columns, rows_in_batch, at: 0, row: 0, total, size, counter })
    }

    /// Reads the next batch of rows; false at the end.
    fn next_batch(&mut self) -> Result<bool, ReadFault> {
        let batch = guarded(|| self.batches.next().transpose()).map_err(ReadFault::damaged)?;
        let Some(batch) = batch else { return Ok(false) };
        for (number, array) in self.chosen.all().into_iter().zip(batch.columns()) {
            self.columns[number] = Some(texts(array).map_err(|error| ReadFault::damaged(error.to_string()))?);
        }
        (self.rows_in_batch, self.at) = (batch.num_rows(), 0);
        Ok(true)
    }

    fn content(&self, at: usize) -> Result<Row, BadRow> {
        self.chosen.row(&|column| {
            let texts = self.columns[column].as_ref()?;
            texts.is_valid(at).then(|| Cow::Borrowed(texts.value(at)))
        })
    }
}

impl Rows for ParquetRows {
    fn next(&mut self) -> Result<Option<RowEntry>, ReadFault> {
        while self.at == self.rows_in_batch {
            if !self.next_batch()? {
                self.counter.store(self.size, Ordering::Relaxed);
                return Ok(None);
            }
        }
        let content = self.content(self.at);
        self.at += 1;
        self.row += 1;
        // The progress in bytes, as if they were spread evenly over the rows.
        let done = (self.size as f64 * self.row as f64 / self.total.max(1) as f64) as u64;
        self.counter.store(done.min(self.size), Ordering::Relaxed);
        Ok(Some(RowEntry { row: self.row, content }))
    }
}

/// Runs parquet's decoder, which may panic on damaged bytes instead of returning an error.
fn guarded<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its bytes make no sense to the parquet decoder".to_owned()),
    }
}

/// Converts a column to text: lists and maps as JSON, times as milliseconds since 1970.
fn texts(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    let array = match array.data_type() {
        DataType::Timestamp(_, zone) => {
            let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, zone.clone());
            cast(&cast(array, &milliseconds)?, &DataType::Int64)?
        }
        DataType::List(_) | DataType::Map(_, _) => {
            let values = (0..array.len()).map(|at| nested(array, at)).collect::<Result<Vec<_>, _>>()?;
            Arc::new(values.into_iter().collect::<StringArray>())
        }
        _ => array.clone(),
    };
    Ok(cast(&array, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// Converts a list of texts or numbers, or a map of texts, to JSON.
fn nested(array: &ArrayRef, at: usize) -> Result<Option<String>, ArrowError> {
    if array.is_null(at) {
        return Ok(None);
    }
    if let Some(map) = array.as_map_opt() {
        let entries = map.value(at);
        let (keys, values) = (texts(entries.column(0))?, texts(entries.column(1))?);
        let pairs = keys
            .iter()
            .zip(values.iter())
            .filter_map(|(key, value)| Some((key?.to_owned(), Value::String(value?.to_owned()))));
        return Ok(Some(Value::Object(pairs.collect::<Map<_, _>>()).to_string()));
    }
    let elements = array.as_list::<i32>().value(at);
    let numbers = elements.data_type().is_integer();
    let values = texts(&elements)?;
    let value = |text: &str| match numbers {
        true => text.parse::<i64>().map_or(Value::Null, Value::from),
        false => Value::String(text.to_owned()),
    };
    Ok(Some(Value::Array(values.iter().flatten().map(value).collect()).to_string()))
}
