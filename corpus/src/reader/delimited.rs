//! CSV and TSV, one record at a time: RFC 4180's quotes, LF or CRLF line ends, and no record longer
//! than a row may be.
//!
//! Uses csv-core directly, because the csv crate buffers a whole file in memory if a quote is never
//! closed.

use std::borrow::Cow;
use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, ReaderBuilder, Terminator};

use super::columns::{Chosen, Columns};
use super::{MAX_ROW_BYTES, ReadFault, RowEntry, Rows};
use crate::CorpusError;
use crate::row::{BadRow, Row};

/// The fields of one record, in buffers that grow as csv-core requires.
#[derive(Debug)]
struct Record {
    bytes: Vec<u8>,
    /// Bytes in use.
    len: usize,
    /// The end of each field in `bytes`.
    ends: Vec<usize>,
    /// Fields in use.
    fields: usize,
}

impl Record {
    fn new() -> Self {
        Self { bytes: vec![0; 1024], len: 0, ends: vec![0; 16], fields: 0 }
    }

    fn clear(&mut self) {
        (self.len, self.fields) = (0, 0);
    }

    /// Parses `input` until the record or a buffer ends. Returns the number of bytes consumed.
    fn parse(&mut self, parser: &mut csv_core::Reader, input: &[u8]) -> (ReadRecordResult, usize) {
        let (bytes, ends) = (&mut self.bytes[self.len..], &mut self.ends[self.fields..]);
        let (result, taken, written, ended) = parser.read_record(input, bytes, ends);
        self.len += written;
        self.fields += ended;
        match result {
            ReadRecordResult::OutputFull => self.bytes.resize(self.bytes.len() * 2, 0),
            ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
            _ => {}
        }
        (result, taken)
    }

    fn field(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends[..self.fields].get(number)?;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        Some(&self.bytes[start..end])
    }

    /// Returns whether the record is an empty line.
    fn is_blank(&self) -> bool {
        self.fields <= 1 && matches!(&self.bytes[..self.len], b"" | b"\r")
    }
}

/// Splits bytes into records.
struct Records {
    reader: Box<dyn BufRead + Send>,
    parser: csv_core::Reader,
}

/// The result of reading the next record.
#[derive(Debug, PartialEq, Eq)]
enum NextRecord {
    Record,
    Oversized,
    End,
}

impl Records {
    fn new(reader: Box<dyn BufRead + Send>, delimiter: u8) -> Self {
        // The default terminator would also end a record at a carriage return without a line feed.
        let parser = ReaderBuilder::new().delimiter(delimiter).terminator(Terminator::Any(b'\n')).build();
        Self { reader, parser }
    }

    /// Reads the next non-blank record into `record`.
    fn next(&mut self, record: &mut Record) -> io::Result<NextRecord> {
        loop {
            self.pass_line_feeds()?;
            match self.next_line(record)? {
                NextRecord::Record if record.is_blank() => {}
                found => return Ok(found),
            }
        }
    }

    /// Skips empty lines, which csv-core would count as part of the next record.
    fn pass_line_feeds(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let (feeds, held) = (buffer.iter().take_while(|byte| **byte == b'\n').count(), buffer.len());
            self.reader.consume(feeds);
            if feeds < held || held == 0 {
                return Ok(());
            }
        }
    }

    fn next_line(&mut self, record: &mut Record) -> io::Result<NextRecord> {
        record.clear();
        let mut taken_in_all = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            // The byte after the longest row may be its line feed.
            let input = &buffer[..buffer.len().min(MAX_ROW_BYTES + 1 - taken_in_all)];
            let (result, taken) = record.parse(&mut self.parser, input);
            let (is_end, is_line_end) = (input.is_empty(), input[..taken].last() == Some(&b'\n'));
            self.reader.consume(taken);
            taken_in_all += taken;
            match result {
                ReadRecordResult::Record => return Ok(NextRecord::Record),
                // csv-core also reports the end for a buffer that holds only a byte order mark.
                ReadRecordResult::End if is_end => return Ok(NextRecord::End),
                _ if taken_in_all > MAX_ROW_BYTES => return self.skip_line(is_line_end),
                _ => {}
            }
        }
    }

    /// Skips the rest of an oversized record. The next record begins on the next line, even within
    /// quotes: a quote that is never closed costs one row, not the rest of the file.
    fn skip_line(&mut self, is_line_end: bool) -> io::Result<NextRecord> {
        if !is_line_end {
            self.reader.skip_until(b'\n')?;
        }
        self.parser.reset();
        Ok(NextRecord::Oversized)
    }
}

/// The rows of a delimited text table.
pub(super) struct DelimitedRows {
    records: Records,
    record: Record,
    chosen: Chosen,
    /// The columns that are read.
    read: Vec<usize>,
    fields: usize,
    row: u64,
    /// The first record is a row, not a header, and is still to be returned.
    pending: bool,
}

impl DelimitedRows {
    /// Reads the header; none for an input without a record. Without a header, the columns are
    /// named by their numbers, from 1.
    pub fn open(
        reader: Box<dyn BufRead + Send>,
        delimiter: u8,
        (columns, header): (&Columns, bool),
        input: &str,
    ) -> Result<Option<Self>, CorpusError> {
        let (mut records, mut record) = (Records::new(reader, delimiter), Record::new());
        let damaged = |reason: String| CorpusError::Damaged { input: input.to_owned(), rows: 0, reason };
        match records.next(&mut record).map_err(|error| damaged(error.to_string()))? {
            NextRecord::End => return Ok(None),
            NextRecord::Oversized => {
                return Err(damaged(format!("its first line exceeds {MAX_ROW_BYTES} bytes")));
            }
            NextRecord::Record => {}
        }
        let fields = record.fields;
        let names = match header {
            true => header_names(&record),
            false => (1..=fields).map(|number| number.to_string()).collect(),
        };
        let chosen = columns.choose(&names, input)?;
        let read = chosen.all();
        Ok(Some(Self { records, record, chosen, read, fields, row: 0, pending: !header }))
    }

    fn content(&self) -> Result<Row, BadRow> {
        if self.record.fields != self.fields {
            return Err(BadRow::FieldCount);
        }
        if self.read.iter().any(|column| self.text(*column).is_none()) {
            return Err(BadRow::NotUtf8);
        }
        self.chosen.row(&|column| self.text(column).map(Cow::Borrowed))
    }

    /// Returns a field; none if it is missing or not UTF-8. Strips a carriage return at the end of
    /// the line.
    fn text(&self, column: usize) -> Option<&str> {
        let field = str::from_utf8(self.record.field(column)?).ok()?;
        Some(if column + 1 == self.fields { field.trim_end_matches('\r') } else { field })
    }
}

impl Rows for DelimitedRows {
    fn next(&mut self) -> Result<Option<RowEntry>, ReadFault> {
        let found = match self.pending {
            true => NextRecord::Record,
            false => self.records.next(&mut self.record)?,
        };
        self.pending = false;
        self.row += 1;
        let content = match found {
            NextRecord::End => return Ok(None),
            NextRecord::Oversized => Err(BadRow::Oversized),
            NextRecord::Record => self.content(),
        };
        Ok(Some(RowEntry { row: self.row, content }))
    }
}

fn header_names(record: &Record) -> Vec<String> {
    let fields = (0..record.fields).filter_map(|number| record.field(number));
    let names = fields.map(|field| String::from_utf8_lossy(field).trim().to_owned());
    names.map(|name| name.trim_start_matches('\u{feff}').trim_matches('"').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let reader = std::io::BufReader::with_capacity(3, std::io::Cursor::new(bytes.to_vec()));
        let mut records = Records::new(Box::new(reader), b',');
        let (mut record, mut all) = (Record::new(), Vec::new());
        while records.next(&mut record).unwrap() == NextRecord::Record {
            all.push((0..record.fields).map(|field| record.field(field).unwrap().to_vec()).collect());
        }
        all
    }

    proptest! {
        #[test]
        fn output_of_the_csv_crate_is_read_back_unchanged(
            table in prop::collection::vec(prop::collection::vec("[a-z\",\n é]{0,6}", 3), 1..6)
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            for record in &table {
                writer.write_record(record).unwrap();
            }
            let read = records(&writer.into_inner().unwrap());
            let wanted: Vec<Vec<Vec<u8>>> =
                table.iter().map(|record| record.iter().map(|field| field.clone().into_bytes()).collect()).collect();
            prop_assert_eq!(read, wanted);
        }
    }

    #[test]
    fn an_unclosed_quote_costs_one_row_and_not_the_rest() {
        let mut bytes = b"a,\"open\n".to_vec();
        bytes.extend(vec![b'x'; MAX_ROW_BYTES]);
        bytes.extend(b"\nb,c\n");
        let mut records = Records::new(Box::new(std::io::Cursor::new(bytes)), b',');
        let mut record = Record::new();
        assert_eq!(records.next(&mut record).unwrap(), NextRecord::Oversized);
        assert_eq!(records.next(&mut record).unwrap(), NextRecord::Record);
        assert_eq!(record.field(1), Some(&b"c"[..]));
        assert_eq!(records.next(&mut record).unwrap(), NextRecord::End);
    }

    #[test]
    fn a_record_ends_at_a_line_feed_regardless_of_buffer_boundaries() {
        let bytes = "\u{feff}a,b\r\n\n\r\n\"\"\n\"c\rd\",\"\"\"e\"\n,f\ng,".as_bytes();
        let wanted = [["a", "b\r"], ["c\rd", "\"e"], ["", "f"], ["g", ""]];
        assert_eq!(
            records(bytes),
            wanted.map(|record| record.map(|field| field.as_bytes().to_vec()).to_vec())
        );
        assert!(records("\u{feff}".as_bytes()).is_empty());
    }

    #[test]
    fn a_row_of_the_maximum_length_is_read_and_a_longer_one_is_oversized() {
        let row = |length: usize| [vec![b'x'; length], b"\ny\n".to_vec()].concat();
        let found = |bytes: Vec<u8>| {
            let mut records = Records::new(Box::new(std::io::Cursor::new(bytes)), b',');
            let mut record = Record::new();
            [(); 2].map(|()| (records.next(&mut record).unwrap(), record.len))
        };
        assert_eq!(found(row(MAX_ROW_BYTES)), [(NextRecord::Record, MAX_ROW_BYTES), (NextRecord::Record, 1)]);
        let [oversized, next] = found(row(MAX_ROW_BYTES + 1));
        assert_eq!((oversized.0, next), (NextRecord::Oversized, (NextRecord::Record, 1)));
        let line_feeds = [vec![b'\n'; 2 * MAX_ROW_BYTES], b"y".to_vec()].concat();
        assert_eq!(found(line_feeds)[0], (NextRecord::Record, 1), "empty lines are not part of a row");
    }
}
