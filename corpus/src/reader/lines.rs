//! Text with one prompt per line, and JSON lines.

use std::io::{self, BufRead, Read};

use super::columns::Columns;
use super::objects::Objects;
use super::{MAX_ROW_BYTES, ReadFault, RowEntry, Rows};
use crate::row::{BadRow, Row};

/// Reads the lines that are not blank, with their numbers from 1.
pub(super) struct LineReader {
    reader: Box<dyn BufRead + Send>,
    number: u64,
    line: Vec<u8>,
}

impl LineReader {
    pub fn new(reader: Box<dyn BufRead + Send>) -> Self {
        Self { reader, number: 0, line: Vec::new() }
    }

    /// Returns the next line; none at the end. The inner `Err` is a line that is not UTF-8 or too
    /// long, which is skipped to its end.
    fn next(&mut self) -> io::Result<Option<(u64, Result<&str, BadRow>)>> {
        loop {
            self.line.clear();
            // The line feed is not part of the row.
            let limit = MAX_ROW_BYTES as u64 + 1;
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read > MAX_ROW_BYTES && self.line.last() != Some(&b'\n') {
                self.reader.skip_until(b'\n')?;
                return Ok(Some((self.number, Err(BadRow::Oversized))));
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let text = str::from_utf8(&self.line).map_err(|_| BadRow::NotUtf8);
        Ok(Some((self.number, text.map(|text| text.trim_start_matches('\u{feff}').trim()))))
    }
}

/// One prompt per line.
pub(super) struct TextRows {
    pub lines: LineReader,
    pub source: String,
}

impl Rows for TextRows {
    fn next(&mut self) -> Result<Option<RowEntry>, ReadFault> {
        let Some((row, line)) = self.lines.next()? else { return Ok(None) };
        let text_row =
            |text: &str| Row { text: text.to_owned(), source: self.source.clone(), ..Row::default() };
        Ok(Some(RowEntry { row, content: line.map(text_row) }))
    }
}

/// One object per line.
pub(super) struct JsonRows {
    lines: LineReader,
    objects: Objects,
}

impl JsonRows {
    pub fn new(lines: LineReader, columns: Columns) -> Self {
        Self { lines, objects: Objects::new(columns) }
    }
}

impl Rows for JsonRows {
    fn next(&mut self) -> Result<Option<RowEntry>, ReadFault> {
        let Some((row, line)) = self.lines.next()? else { return Ok(None) };
        let content = line.and_then(|line| self.objects.row(line.as_bytes()));
        Ok(Some(RowEntry { row, content }))
    }
}
