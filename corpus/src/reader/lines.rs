//! Text with a prompt a line, and JSON lines.

use std::io::{self, BufRead, Read};

use super::columns::Columns;
use super::objects::Objects;
use super::{Entry, Fault, MAX_ROW_BYTES, Rows};
use crate::row::{BadRow, Row};

/// The next line that is not blank, with its number from 1.
pub(super) struct Lines {
    reader: Box<dyn BufRead + Send>,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    pub fn new(reader: Box<dyn BufRead + Send>) -> Self {
        Self { reader, number: 0, line: Vec::new() }
    }

    /// None at the end; `Err` within for a line that is too long, which is skipped to its end, or not UTF-8.
    fn next(&mut self) -> io::Result<Option<(u64, Result<&str, BadRow>)>> {
        loop {
            self.line.clear();
            let limit = MAX_ROW_BYTES as u64;
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read == MAX_ROW_BYTES && self.line.last() != Some(&b'\n') {
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

/// A prompt a line.
pub(super) struct TextRows {
    pub lines: Lines,
    pub source: String,
}

impl Rows for TextRows {
    fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let Some((row, line)) = self.lines.next()? else { return Ok(None) };
        let text_row =
            |text: &str| Row { text: text.to_owned(), source: self.source.clone(), ..Row::default() };
        Ok(Some(Entry { row, content: line.map(text_row) }))
    }
}

/// An object a line.
pub(super) struct JsonRows {
    lines: Lines,
    objects: Objects,
}

impl JsonRows {
    pub fn new(lines: Lines, columns: Columns) -> Self {
        Self { lines, objects: Objects::new(columns) }
    }
}

impl Rows for JsonRows {
    fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let Some((row, line)) = self.lines.next()? else { return Ok(None) };
        let content = line.and_then(|line| self.objects.row(line.as_bytes()));
        Ok(Some(Entry { row, content }))
    }
}
