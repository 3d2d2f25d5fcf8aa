//! Reads an input row by row in bounded memory. It knows nothing of cleaning.

mod bytes;
mod columnar;
mod columns;
mod delimited;
mod document;
mod format;
mod lines;
mod objects;

use std::io::{self, BufRead};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use self::columnar::ParquetRows;
use self::columns::Columns;
pub use self::columns::Mapping;
use self::delimited::DelimitedRows;
use self::document::DocumentRows;
pub use self::format::Format;
use self::lines::{JsonRows, LineReader, TextRows};
use crate::CorpusError;
use crate::row::{BadRow, Row};
use crate::source::Input;

/// The longest row of a text format, in bytes. A longer row is not a prompt.
pub const MAX_ROW_BYTES: usize = 1 << 20;

/// The settings for reading inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The format; none to detect it from name and content.
    pub format: Option<Format>,
    pub mapping: Mapping,
    /// The source of prompts without one of their own; none for the data set's name, or the file's.
    pub source: Option<String>,
    /// CSV and TSV without a header; their columns are named 1, 2, ….
    pub no_header: bool,
}

/// A row of an input, or the reason why it could not be read.
#[derive(Debug, PartialEq)]
pub struct RowEntry {
    /// The number in the input, from 1: of a line, a record or an element.
    pub row: u64,
    pub content: Result<Row, BadRow>,
}

/// The error that ends reading.
#[derive(Debug)]
pub(crate) enum ReadFault {
    Io(io::Error),
    Damaged(String),
}

impl ReadFault {
    fn damaged(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

impl From<io::Error> for ReadFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The rows of an input in some format.
pub(crate) trait Rows {
    /// Returns the next row; none at the end.
    fn next(&mut self) -> Result<Option<RowEntry>, ReadFault>;
}

/// An input's rows. Ends after an error.
pub struct Reader {
    input: String,
    format: Format,
    /// None after the end.
    rows: Opened,
    read: u64,
    counter: Arc<AtomicU64>,
}

impl Reader {
    /// Opens an input.
    ///
    /// # Errors
    /// [`CorpusError::Unreadable`], [`CorpusError::UnknownFormat`], [`CorpusError::NoColumn`],
    /// [`CorpusError::Damaged`] if its beginning (parquet: its end) is already corrupt.
    pub fn open(input: &Input, reading: &Reading) -> Result<Self, CorpusError> {
        let counter = Arc::new(AtomicU64::new(0));
        let unreadable = |error: io::Error| unreadable(&input.name, 0, error);
        let columns =
            Columns { mapping: reading.mapping.clone(), source: reading.source.clone(), stem: input.stem() };
        if reading.format.is_none_or(Format::is_parquet) && format::looks_like_parquet(input, reading.format)
        {
            let rows: Opened = Some(Box::new(ParquetRows::open(input, &columns, counter.clone())?));
            return Ok(Self { input: input.name.clone(), format: Format::Parquet, rows, read: 0, counter });
        }
        let mut reader = bytes::open(input, &counter).map_err(unreadable)?;
        let head = reader.fill_buf().map_err(unreadable)?;
        let unknown = |reason| CorpusError::UnknownFormat { input: input.name.clone(), reason };
        let format = reading.format.map_or_else(|| Format::of(&input.name, head).map_err(unknown), Ok)?;
        let rows = text_rows(format, reader, columns, !reading.no_header, &input.name)?;
        Ok(Self { input: input.name.clone(), format, rows, read: 0, counter })
    }

    /// Returns the input's format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the bytes read so far, before decompression.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }
}

impl Iterator for Reader {
    type Item = Result<RowEntry, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.rows.as_mut()?.next();
        if let Ok(Some(entry)) = next {
            self.read = entry.row;
            return Some(Ok(entry));
        }
        self.rows = None;
        next.err().map(|fault| Err(self.told(fault)))
    }
}

impl Reader {
    fn told(&self, fault: ReadFault) -> CorpusError {
        match fault {
            ReadFault::Io(error) => unreadable(&self.input, self.read, error),
            ReadFault::Damaged(reason) => {
                CorpusError::Damaged { input: self.input.clone(), rows: self.read, reason }
            }
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("input", &self.input)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// None for an input without any record.
type Opened = Option<Box<dyn Rows + Send>>;

/// Opens the rows of a format that is read from beginning to end.
fn text_rows(
    format: Format,
    reader: Box<dyn BufRead + Send>,
    columns: Columns,
    header: bool,
    input: &str,
) -> Result<Opened, CorpusError> {
    let delimited = |delimiter, reader| {
        let rows = DelimitedRows::open(reader, delimiter, (&columns, header), input)?;
        Ok(rows.map(|rows| Box::new(rows) as Box<dyn Rows + Send>))
    };
    Ok(match format {
        Format::Csv => delimited(b',', reader)?,
        Format::Tsv => delimited(b'\t', reader)?,
        Format::Jsonl => Some(Box::new(JsonRows::new(LineReader::new(reader), columns))),
        Format::Text => {
            let source = columns.source.unwrap_or(columns.stem);
            Some(Box::new(TextRows { lines: LineReader::new(reader), source }))
        }
        Format::Json | Format::CocoCaptions | Format::Lexica => {
            Some(Box::new(DocumentRows::new(reader, columns)))
        }
        Format::Parquet | Format::DiffusionDb | Format::Coyo => {
            return Err(CorpusError::NotSeekable { input: input.to_owned() });
        }
    })
}

/// Maps an I/O error: refusals of the system or a store are unreadable inputs; errors of
/// decompression and parsing are damage.
fn unreadable(input: &str, rows: u64, error: io::Error) -> CorpusError {
    let ours = matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
    let from_system = error.raw_os_error().is_some();
    let from_store = error.get_ref().is_some_and(|inner| inner.is::<object_store::Error>());
    let unpacking =
        error.kind() == io::ErrorKind::UnexpectedEof || (error.kind() == io::ErrorKind::Other && !from_store);
    if !from_system && (ours || unpacking) {
        return CorpusError::Damaged { input: input.to_owned(), rows, reason: error.to_string() };
    }
    CorpusError::unreadable(input, error)
}
