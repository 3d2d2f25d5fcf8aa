//! One JSON document that holds rows in a list: captions of COCO and VizWiz, images of Lexica, a
//! bare list of objects, and the JSON files beside DiffusionDB's pictures. The document is never
//! held in memory: its elements are extracted one by one.

use std::io::{self, BufRead};

use super::columns::Columns;
use super::objects::Objects;
use super::{MAX_ROW_BYTES, ReadFault, RowEntry, Rows};
use crate::row::{BadRow, Row};

/// Extracts JSON values from bytes, and parses them only as far as needed to find their ends.
struct Scanner {
    reader: Box<dyn BufRead + Send>,
    offset: u64,
}

/// The kind of a value by its first byte, which determines how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonKind {
    Text,
    Nested,
    Plain,
}

/// The scan position within a value.
struct Cursor {
    kind: JsonKind,
    depth: u32,
    in_text: bool,
    escaped: bool,
}

/// The effect of a byte on a value: it continues, ends with this byte, or ended before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    On,
    EndsHere,
    EndedBefore,
}

impl Cursor {
    fn new(first: u8) -> Self {
        let kind = match first {
            b'"' => JsonKind::Text,
            b'{' | b'[' => JsonKind::Nested,
            _ => JsonKind::Plain,
        };
        Self { kind, depth: 0, in_text: false, escaped: false }
    }

    fn step(&mut self, byte: u8) -> Step {
        if self.in_text {
            let closes = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.in_text = !closes;
            return if closes && self.depth == 0 { Step::EndsHere } else { Step::On };
        }
        match byte {
            b'"' if self.kind == JsonKind::Plain => return Step::EndedBefore,
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth == 0 => return Step::EndedBefore,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Step::EndsHere;
                }
            }
            b',' | b':' if self.depth == 0 => return Step::EndedBefore,
            byte if self.depth == 0 && byte.is_ascii_whitespace() => return Step::EndedBefore,
            _ => {}
        }
        Step::On
    }
}

impl Scanner {
    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn bump(&mut self) {
        self.reader.consume(1);
        self.offset += 1;
    }

    /// Skips white space and returns the next byte without consuming it.
    fn token(&mut self) -> io::Result<u8> {
        loop {
            match self.peek()? {
                None => return Err(self.wrong("it ends too early")),
                Some(byte) if byte.is_ascii_whitespace() => self.bump(),
                Some(byte) => return Ok(byte),
            }
        }
    }

    /// Consumes a required byte.
    fn expect(&mut self, wanted: u8) -> io::Result<()> {
        match self.token()? {
            byte if byte == wanted => {
                self.bump();
                Ok(())
            }
            _ => Err(self.wrong(&format!("{:?} is missing", wanted as char))),
        }
    }

    /// Consumes `,` or `closing`; true for the comma.
    fn goes_on(&mut self, closing: u8) -> io::Result<bool> {
        let byte = self.token()?;
        if byte != b',' && byte != closing {
            return Err(self.wrong("a value is followed by neither a comma nor an end"));
        }
        self.bump();
        Ok(byte == b',')
    }

    /// Consumes a whole value and keeps up to [`MAX_ROW_BYTES`] of it in `kept`. Returns whether
    /// all of it fits.
    fn value(&mut self, kept: &mut Vec<u8>) -> io::Result<bool> {
        kept.clear();
        let mut cursor = Cursor::new(self.token()?);
        let mut length = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(self.wrong("it ends within a value"));
            }
            let end = buffer.iter().enumerate().find_map(|(at, &byte)| match cursor.step(byte) {
                Step::On => None,
                Step::EndsHere => Some(at + 1),
                Step::EndedBefore => Some(at),
            });
            let used = end.unwrap_or(buffer.len());
            let room = MAX_ROW_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..used.min(room)]);
            self.reader.consume(used);
            self.offset += used as u64;
            length += used;
            if end.is_some() {
                if length == 0 {
                    return Err(self.wrong("a value is missing"));
                }
                return Ok(length <= MAX_ROW_BYTES);
            }
        }
    }

    fn wrong(&self, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("it is not JSON at byte {}: {what}", self.offset))
    }
}

/// The position in the document before the next row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    /// In the outer object, before a key.
    Key,
    /// In a list, before an element; `nested` if the list is in an outer object.
    Element {
        nested: bool,
    },
    End,
}

/// The rows of a document.
pub(super) struct DocumentRows {
    scanner: Scanner,
    objects: Objects,
    at: At,
    element: Vec<u8>,
    row: u64,
}

impl DocumentRows {
    pub fn new(reader: Box<dyn BufRead + Send>, columns: Columns) -> Self {
        let scanner = Scanner { reader, offset: 0 };
        Self { scanner, objects: Objects::new(columns), at: At::Start, element: Vec::new(), row: 0 }
    }

    fn start(&mut self) -> io::Result<()> {
        // A byte order mark is not white space.
        while matches!(self.scanner.peek()?, Some(0xef | 0xbb | 0xbf)) {
            self.scanner.bump();
        }
        self.at = match self.scanner.token()? {
            b'[' => self.enter(b']', At::Element { nested: false })?,
            b'{' => self.enter(b'}', At::Key)?,
            _ => return Err(self.scanner.wrong("it begins with neither { nor [")),
        };
        Ok(())
    }

    /// Enters a list or object, which may be empty.
    fn enter(&mut self, closing: u8, inside: At) -> io::Result<At> {
        self.scanner.bump();
        if self.scanner.token()? != closing {
            return Ok(inside);
        }
        self.scanner.bump();
        match inside {
            At::Element { nested: true } => self.next_key(),
            _ => Ok(At::End),
        }
    }

    fn next_key(&mut self) -> io::Result<At> {
        Ok(if self.scanner.goes_on(b'}')? { At::Key } else { At::End })
    }

    /// Reads a key of the outer object: enters a list of rows, returns a row, skips anything else.
    fn key(&mut self) -> io::Result<Option<RowEntry>> {
        if self.scanner.token()? != b'"' {
            return Err(self.scanner.wrong("a key is missing"));
        }
        self.scanner.value(&mut self.element)?;
        let key = serde_json::from_slice::<String>(&self.element).unwrap_or_default();
        self.scanner.expect(b':')?;
        if matches!(key.as_str(), "annotations" | "images") && self.scanner.token()? == b'[' {
            self.at = self.enter(b']', At::Element { nested: true })?;
            return Ok(None);
        }
        let fits = self.scanner.value(&mut self.element)?;
        self.at = self.next_key()?;
        // The JSON files of DiffusionDB: {"NAME.png": {"p": prompt, "se": seed, "c": cfg, "st":
        // step, "sa": sampler}}.
        let part = fits.then(|| serde_json::from_slice::<Part>(&self.element).ok()).flatten();
        Ok(part.map(|part| {
            self.row += 1;
            RowEntry { row: self.row, content: Ok(part.row(key)) }
        }))
    }

    fn element(&mut self, nested: bool) -> io::Result<Option<RowEntry>> {
        let fits = self.scanner.value(&mut self.element)?;
        if !self.scanner.goes_on(b']')? {
            self.at = if nested { self.next_key()? } else { At::End };
        }
        let content = if fits { self.objects.row(&self.element) } else { Err(BadRow::Oversized) };
        // COCO has a list of images beside its annotations. Images without a text are not rows.
        if content == Err(BadRow::NoText) && is_picture(&self.element) {
            return Ok(None);
        }
        self.row += 1;
        Ok(Some(RowEntry { row: self.row, content }))
    }
}

impl Rows for DocumentRows {
    fn next(&mut self) -> Result<Option<RowEntry>, ReadFault> {
        loop {
            let entry = match self.at {
                At::Start => {
                    self.start()?;
                    None
                }
                At::Key => self.key()?,
                At::Element { nested } => self.element(nested)?,
                At::End => return Ok(None),
            };
            if entry.is_some() {
                return Ok(entry);
            }
        }
    }
}

/// Returns whether a row without a text is an image of COCO.
fn is_picture(element: &[u8]) -> bool {
    let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_slice(element);
    object.is_ok_and(|object| object.contains_key("file_name"))
}

/// DiffusionDB's description of a picture.
#[derive(serde::Deserialize)]
struct Part {
    p: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Part {
    fn row(self, name: String) -> Row {
        let known = [("se", "seed"), ("st", "step"), ("c", "cfg"), ("sa", "sampler")];
        let mut attributes: std::collections::BTreeMap<String, String> = known
            .iter()
            .filter_map(|(key, name)| {
                let value = self.rest.get(*key)?;
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                Some(((*name).to_owned(), text))
            })
            .collect();
        attributes.insert("image_name".into(), name);
        Row { text: self.p, source: "diffusiondb".into(), attributes, ..Row::default() }
    }
}
