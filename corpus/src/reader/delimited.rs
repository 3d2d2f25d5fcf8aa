//! CSV and TSV, a record at a time: RFC 4180's quotes, either end of line, and no record longer than a row may be.
//! (The csv crate holds a whole file in memory where a quote is never closed.)

use std::borrow::Cow;
use std::io::{self, BufRead};

use super::columns::{Chosen, Columns};
use super::{Entry, Fault, MAX_ROW_BYTES, Rows};
use crate::CorpusError;
use crate::row::{BadRow, Row};

/// The fields of one record.
#[derive(Debug, Default)]
struct Record {
    bytes: Vec<u8>,
    /// Where each field ends in `bytes`.
    ends: Vec<usize>,
}

impl Record {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn end_field(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn field(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends.get(number)?;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        Some(&self.bytes[start..end])
    }

    /// A line without anything.
    fn is_blank(&self) -> bool {
        self.ends.len() <= 1 && matches!(self.bytes.as_slice(), b"" | b"\r")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote within quotes: an end, or the first of two.
    QuoteInQuoted,
    /// A record that is too long, until the end of the line.
    Skipping,
}

/// Cuts bytes into records.
struct Records {
    reader: Box<dyn BufRead + Send>,
    delimiter: u8,
    /// Bytes of the record so far.
    taken: usize,
}

/// What came of looking for a record.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Record,
    Oversized,
    End,
}

impl Records {
    /// Fills `record` with the next one that is not blank.
    fn next(&mut self, record: &mut Record) -> io::Result<Found> {
        loop {
            match self.next_line(record)? {
                Found::Record if record.is_blank() => {}
                found => return Ok(found),
            }
        }
    }

    fn next_line(&mut self, record: &mut Record) -> io::Result<Found> {
        record.clear();
        self.taken = 0;
        let mut state = State::FieldStart;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(self.at_end(state, record));
            }
            let mut used = 0;
            let mut ended = false;
            for &byte in buffer {
                used += 1;
                state = step(state, byte, self.delimiter, record);
                ended = byte == b'\n' && state == State::FieldStart;
                if ended {
                    break;
                }
                self.taken += 1;
                if self.taken > MAX_ROW_BYTES {
                    state = State::Skipping;
                }
                if state == State::Skipping && byte == b'\n' {
                    self.reader.consume(used);
                    return Ok(Found::Oversized);
                }
            }
            self.reader.consume(used);
            if ended {
                return Ok(Found::Record);
            }
        }
    }

    fn at_end(&self, state: State, record: &mut Record) -> Found {
        match state {
            State::Skipping => Found::Oversized,
            _ if self.taken == 0 => Found::End,
            _ => {
                record.end_field();
                Found::Record
            }
        }
    }
}

/// Takes one byte; after the end of a record the state is [`State::FieldStart`] and the record's last field ended.
fn step(state: State, byte: u8, delimiter: u8, record: &mut Record) -> State {
    match (state, byte) {
        (State::Skipping, _) => State::Skipping,
        (State::Quoted, b'"') => State::QuoteInQuoted,
        (State::Quoted, _) => {
            record.bytes.push(byte);
            State::Quoted
        }
        (State::QuoteInQuoted, b'"') => {
            record.bytes.push(byte);
            State::Quoted
        }
        (State::FieldStart, b'"') => State::Quoted,
        (_, b'\n') => {
            record.end_field();
            State::FieldStart
        }
        (_, byte) if byte == delimiter => {
            record.end_field();
            State::FieldStart
        }
        (_, byte) => {
            record.bytes.push(byte);
            State::Plain
        }
    }
}

/// The rows of a table as text.
pub(super) struct DelimitedRows {
    records: Records,
    record: Record,
    chosen: Chosen,
    /// The columns that are read.
    read: Vec<usize>,
    fields: usize,
    row: u64,
    /// A first record that is a row and no header.
    pending: bool,
}

impl DelimitedRows {
    /// Reads the header; without one the columns are called by their numbers, from 1.
    pub fn open(
        reader: Box<dyn BufRead + Send>,
        delimiter: u8,
        (columns, header): (&Columns, bool),
        input: &str,
    ) -> Result<Option<Self>, CorpusError> {
        let mut records = Records { reader, delimiter, taken: 0 };
        let mut record = Record::default();
        let damaged = |reason: String| CorpusError::Damaged { input: input.to_owned(), rows: 0, reason };
        match records.next(&mut record).map_err(|error| damaged(error.to_string()))? {
            Found::End => return Ok(None),
            Found::Oversized => return Err(damaged(format!("its first line exceeds {MAX_ROW_BYTES} bytes"))),
            Found::Record => {}
        }
        let fields = record.ends.len();
        let names = match header {
            true => header_names(&record),
            false => (1..=fields).map(|number| number.to_string()).collect(),
        };
        let chosen = columns.choose(&names, input)?;
        let read = chosen.all();
        Ok(Some(Self { records, record, chosen, read, fields, row: 0, pending: !header }))
    }

    fn content(&self) -> Result<Row, BadRow> {
        if self.record.ends.len() != self.fields {
            return Err(BadRow::FieldCount);
        }
        if self.read.iter().any(|column| self.text(*column).is_none()) {
            return Err(BadRow::NotUtf8);
        }
        self.chosen.row(&|column| self.text(column).map(Cow::Borrowed))
    }

    /// None where it is not UTF-8. A carriage return before the end of the line is no part of it.
    fn text(&self, column: usize) -> Option<&str> {
        let field = str::from_utf8(self.record.field(column)?).ok()?;
        Some(if column + 1 == self.fields { field.trim_end_matches('\r') } else { field })
    }
}

impl Rows for DelimitedRows {
    fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let found = match self.pending {
            true => Found::Record,
            false => self.records.next(&mut self.record)?,
        };
        self.pending = false;
        self.row += 1;
        let content = match found {
            Found::End => return Ok(None),
            Found::Oversized => Err(BadRow::Oversized),
            Found::Record => self.content(),
        };
        Ok(Some(Entry { row: self.row, content }))
    }
}

fn header_names(record: &Record) -> Vec<String> {
    let fields = (0..record.ends.len()).filter_map(|number| record.field(number));
    let names = fields.map(|field| String::from_utf8_lossy(field).trim().to_owned());
    names.map(|name| name.trim_start_matches('\u{feff}').trim_matches('"').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let reader = std::io::BufReader::with_capacity(3, std::io::Cursor::new(bytes.to_vec()));
        let mut records = Records { reader: Box::new(reader), delimiter: b',', taken: 0 };
        let (mut record, mut all) = (Record::default(), Vec::new());
        while records.next(&mut record).unwrap() == Found::Record {
            all.push((0..record.ends.len()).map(|field| record.field(field).unwrap().to_vec()).collect());
        }
        all
    }

    proptest! {
        #[test]
        fn what_the_csv_crate_writes_is_read_as_it_was(
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
        let mut records =
            Records { reader: Box::new(std::io::Cursor::new(bytes)), delimiter: b',', taken: 0 };
        let mut record = Record::default();
        assert_eq!(records.next(&mut record).unwrap(), Found::Oversized);
        assert_eq!(records.next(&mut record).unwrap(), Found::Record);
        assert_eq!(record.field(1), Some(&b"c"[..]));
        assert_eq!(records.next(&mut record).unwrap(), Found::End);
    }
}
