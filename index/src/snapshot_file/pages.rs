//! Checks the pages of a snapshot's columns before they are decoded. A page of a few hundred bytes
//! may announce gigabytes, and the decoder allocates what is announced.
//!
//! It reads only the pages' headers: Thrift's compact protocol, as in the parquet format's
//! parquet.thrift. It refuses pages that [`super::SnapshotWriter`] does not write.

use std::io::{BufReader, Read, Seek, SeekFrom};

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

use super::{ROW_GROUP, SnapshotInfo};
use crate::MINILM_DIM;
use crate::point::MAX_SOURCES;

/// The largest page, uncompressed. [`super::SnapshotWriter`] ends a page at 1 MiB or soon after.
const PAGE_MAX_BYTES: u64 = 4 << 20;
/// The largest page of texts. Earlier versions put up to a thousand texts into one page, whatever
/// their length.
const TEXT_PAGE_MAX_BYTES: u64 = 64 << 20;
/// The most values of a page. Values may be empty, so their bytes do not bound their number.
const PAGE_MAX_VALUES: u64 = 1 << 20;
/// The bytes that are decoded together. The size of a row is estimated from the page whose values
/// are largest in the mean.
const BATCH_BYTES: u64 = 4 << 20;
/// The rows that are decoded together at most.
const BATCH_ROWS: u64 = 1000;
/// A decoded value of a vector, with its two levels.
const VALUE_BYTES: u64 = 8;

/// The values of a column's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// An id or a number in each row.
    Single,
    /// A text in each row.
    Text,
    /// The list of sources.
    Sources,
    /// A vector of this many values.
    Vector(u64),
}

impl Column {
    fn page_max_bytes(self) -> u64 {
        match self {
            Self::Single | Self::Vector(_) => PAGE_MAX_BYTES,
            Self::Text | Self::Sources => TEXT_PAGE_MAX_BYTES,
        }
    }
}

/// A page by its header.
#[derive(Debug, Default)]
pub(super) struct Page {
    compressed_bytes: u64,
    bytes: u64,
    values: u64,
}

/// Checks all pages. Returns the number of rows to decode together.
pub(super) fn check(
    file: impl Read + Seek,
    metadata: &ParquetMetaData,
    info: &SnapshotInfo,
) -> Result<usize, String> {
    use Column::{Single, Sources, Text, Vector};
    let vectors = [Vector(MINILM_DIM as u64), Vector(info.clip_dim as u64)];
    let columns = [&[Single, Text, Sources, Single, Text], &vectors[..]].concat();
    let mut walk = Walk { file: BufReader::new(file), at: 0, rows: 0 };
    let mut row_bytes = 1;
    for group in metadata.row_groups() {
        row_bytes = row_bytes.max(walk.group(group, &columns)?);
    }
    // The checksum is of the first bytes.
    if walk.at > info.bytes || walk.rows != info.points {
        return Err("it has other rows than its metadata says".to_owned());
    }
    Ok((BATCH_BYTES / row_bytes).clamp(1, BATCH_ROWS) as usize)
}

/// Goes through a file, never back: no page is decoded twice.
struct Walk<R> {
    file: BufReader<R>,
    at: u64,
    rows: u64,
}

impl<R: Read + Seek> Walk<R> {
    /// Returns the estimated bytes of a row.
    fn group(&mut self, group: &RowGroupMetaData, columns: &[Column]) -> Result<u64, String> {
        let rows = unsigned(group.num_rows())?;
        if rows > ROW_GROUP as u64 || group.columns().len() != columns.len() {
            return Err(format!("a snapshot has no group of {rows} rows"));
        }
        self.rows += rows;
        let chunks = group.columns().iter().zip(columns);
        chunks.map(|(chunk, column)| self.chunk(chunk, *column, rows)).sum()
    }

    /// Returns the estimated bytes of a row.
    fn chunk(&mut self, chunk: &ColumnChunkMetaData, column: Column, rows: u64) -> Result<u64, String> {
        if !matches!(chunk.compression(), Compression::ZSTD(_)) || chunk.dictionary_page_offset().is_some() {
            return Err("a column is not encoded as in a snapshot".to_owned());
        }
        let (begin, length) = (unsigned(chunk.data_page_offset())?, unsigned(chunk.compressed_size())?);
        let whole = self.pages(begin, length, column.page_max_bytes())?;
        let values = whole.values;
        let (least, most, row_bytes) = match column {
            Column::Single | Column::Text => (rows, rows, whole.value_bytes),
            Column::Vector(dim) => (rows * dim, rows * dim, dim * VALUE_BYTES),
            // Pages do not tell how many sources a row has.
            Column::Sources => {
                let most = MAX_SOURCES as u64;
                (rows, rows * most, most * whole.value_bytes)
            }
        };
        match (least..=most).contains(&values) && unsigned(chunk.num_values()) == Ok(values) {
            true => Ok(row_bytes),
            false => Err(format!("a column has {values} values for {rows} rows")),
        }
    }

    fn pages(&mut self, begin: u64, length: u64, max_bytes: u64) -> Result<Pages, String> {
        let end = begin.saturating_add(length);
        if begin < self.at {
            return Err("a column begins before the end of another".to_owned());
        }
        self.file.seek(SeekFrom::Start(begin)).map_err(|error| error.to_string())?;
        self.at = begin;
        let mut all = Pages::default();
        while self.at < end {
            let (page, header_bytes) = page(&mut self.file, max_bytes)?;
            self.at += header_bytes + page.compressed_bytes;
            self.file.seek_relative(page.compressed_bytes as i64).map_err(|error| error.to_string())?;
            all.add(&page);
        }
        match self.at == end {
            true => Ok(all),
            false => Err("a page exceeds its column".to_owned()),
        }
    }
}

/// The pages of a column.
#[derive(Debug, Default)]
struct Pages {
    values: u64,
    /// The mean bytes of a value, in the page with the largest.
    value_bytes: u64,
}

impl Pages {
    fn add(&mut self, page: &Page) {
        self.values += page.values;
        self.value_bytes = self.value_bytes.max(page.bytes.div_ceil(page.values));
    }
}

/// Reads a page's header. Returns the page and the header's length.
pub(super) fn page(file: &mut impl Read, max_bytes: u64) -> Result<(Page, u64), String> {
    let mut header = Compact { file, bytes: 0 };
    let mut page = Page::default();
    let (mut is_data, mut is_plain) = (false, false);
    header.fields(|header, field, kind| {
        match (field, kind) {
            (1, Kind::I32) => is_data = header.number()? == 0,
            (2, Kind::I32) => page.bytes = header.number()?,
            (3, Kind::I32) => page.compressed_bytes = header.number()?,
            (5, Kind::Struct) => {
                header.fields(|header, field, kind| match (field, kind) {
                    (1, Kind::I32) => header.number().map(|number| page.values = number),
                    (2, Kind::I32) => header.number().map(|number| is_plain = number == 0),
                    (3 | 4, Kind::I32) => header.number().map(|_| ()),
                    _ => Err(UNKNOWN.to_owned()),
                })?;
            }
            _ => return Err(UNKNOWN.to_owned()),
        }
        Ok(())
    })?;
    let (bytes, values) = (page.bytes, page.values);
    if !is_data || !is_plain {
        return Err("a page is not encoded as in a snapshot".to_owned());
    }
    if bytes > max_bytes || !(1..=PAGE_MAX_VALUES).contains(&values) {
        return Err(format!(
            "a page has {bytes} bytes and {values} values, and {max_bytes} and {PAGE_MAX_VALUES} are the most"
        ));
    }
    // A decoder allocates both sizes. What zstd cannot compress becomes a little longer.
    if page.compressed_bytes > bytes + bytes / 128 + 1024 {
        return Err(format!("a page of {bytes} bytes has {} when compressed", page.compressed_bytes));
    }
    Ok((page, header.bytes))
}

const UNKNOWN: &str = "a page has a header unlike a snapshot's";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    I32,
    Struct,
}

/// Reads Thrift's compact protocol, and counts the bytes.
struct Compact<'a, R> {
    file: &'a mut R,
    bytes: u64,
}

impl<R: Read> Compact<'_, R> {
    fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0];
        self.file.read_exact(&mut byte).map_err(|error| error.to_string())?;
        self.bytes += 1;
        Ok(byte[0])
    }

    /// Reads the fields of a struct; `read` takes each one's number and kind, and reads its value.
    fn fields(
        &mut self,
        mut read: impl FnMut(&mut Self, u8, Kind) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut field = 0;
        loop {
            let head = self.byte()?;
            let kind = match (head >> 4, head & 15) {
                (0, 0) => return Ok(()),
                (1.., 5) => Kind::I32,
                (1.., 12) => Kind::Struct,
                _ => return Err(UNKNOWN.to_owned()),
            };
            field += head >> 4;
            if field > 5 {
                return Err(UNKNOWN.to_owned());
            }
            read(self, field, kind)?;
        }
    }

    /// Reads a number that is not negative: in zigzag encoding, seven bits in each byte.
    fn number(&mut self) -> Result<u64, String> {
        let mut zigzag = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let number = zigzag.is_multiple_of(2).then_some(zigzag / 2);
                return number.filter(|number| *number <= i32::MAX as u64).ok_or(UNKNOWN.to_owned());
            }
        }
        Err(UNKNOWN.to_owned())
    }
}

fn unsigned(number: i64) -> Result<u64, String> {
    u64::try_from(number).map_err(|_| format!("{number} is negative"))
}
