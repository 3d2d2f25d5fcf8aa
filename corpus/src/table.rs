//! Tables of prompts: parquet, CSV, TSV and JSON lines, written row by row. It knows nothing of
//! where the rows come from.

mod columnar;
mod output;
mod text;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use self::columnar::ParquetTable;
use self::output::{Compression, Output};
use self::text::{DelimitedTable, JsonTable};
use crate::CorpusError;

/// A prompt as a row of a table. Fields that [`Columns`] excludes may stay at their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExportRow {
    pub prompt_id: Uuid,
    pub text: String,
    pub sources: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at_ms: Option<i64>,
    pub attributes: BTreeMap<String, String>,
    /// Cosine similarity to the query, -1 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minilm: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<Vec<f32>>,
}

/// The columns beyond prompt_id, text, sources, created_at_ms, attributes and length (of the text,
/// in characters).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    pub similarity: bool,
    pub seeds: bool,
    /// `minilm` and `clip`.
    pub vectors: bool,
}

impl Columns {
    /// Returns the names of the columns, in their order.
    fn names(self) -> Vec<&'static str> {
        let mut names = vec!["prompt_id", "text", "sources", "created_at_ms", "attributes", "length"];
        names.extend(self.similarity.then_some("similarity"));
        names.extend(self.seeds.then_some("seeds"));
        names.extend(self.vectors.then_some(["minilm", "clip"]).into_iter().flatten());
        names
    }
}

/// Writes a table to a temporary file, and gives it its name once it is complete. A writer that is
/// dropped before [`TableWriter::finish`] leaves nothing.
///
/// Parquet is compressed with zstd and stores lists as lists and attributes as a map; CSV and TSV
/// store lists and attributes as JSON; a JSON line is [`ExportRow`] with `length`.
#[derive(Debug)]
pub struct TableWriter {
    table: Table,
    rows: u64,
}

#[derive(Debug)]
enum Table {
    Parquet(ParquetTable),
    Delimited(DelimitedTable),
    Json(JsonTable),
}

impl TableWriter {
    /// Creates a table in the format of the name: `.parquet`, `.csv`, `.tsv`, `.jsonl` or
    /// `.ndjson`, all but the first also with `.gz` or `.zst`.
    ///
    /// # Errors
    /// [`CorpusError::UnknownTable`] for another name, [`CorpusError::Unwritable`] if the file
    /// cannot be created.
    pub fn create(path: &Path, columns: Columns) -> Result<Self, CorpusError> {
        let unknown = || CorpusError::UnknownTable { path: path.to_owned() };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(unknown)?.to_ascii_lowercase();
        let (stem, compression) = Compression::of(&name);
        let output = |compression| Output::create(path, compression);
        let table = match (stem.rsplit_once('.').map(|(_, extension)| extension), compression) {
            (Some("parquet"), Compression::None) => {
                Table::Parquet(ParquetTable::create(output(compression)?, columns)?)
            }
            (Some("csv"), _) => {
                Table::Delimited(DelimitedTable::create(output(compression)?, b',', columns)?)
            }
            (Some("tsv"), _) => {
                Table::Delimited(DelimitedTable::create(output(compression)?, b'\t', columns)?)
            }
            (Some("jsonl" | "ndjson"), _) => Table::Json(JsonTable::new(output(compression)?, columns)),
            _ => return Err(unknown()),
        };
        Ok(Self { table, rows: 0 })
    }

    /// Returns whether [`TableWriter::create`] knows the format of this name.
    #[must_use]
    pub fn knows(path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
        let (stem, compression) = Compression::of(&name);
        match stem.rsplit_once('.').map(|(_, extension)| extension) {
            Some("parquet") => matches!(compression, Compression::None),
            extension => matches!(extension, Some("csv" | "tsv" | "jsonl" | "ndjson")),
        }
    }

    /// Appends rows.
    ///
    /// # Errors
    /// [`CorpusError::Unwritable`], for example if the disk is full.
    pub fn write(&mut self, rows: &[ExportRow]) -> Result<(), CorpusError> {
        match &mut self.table {
            Table::Parquet(table) => table.write(rows)?,
            Table::Delimited(table) => table.write(rows)?,
            Table::Json(table) => table.write(rows)?,
        }
        self.rows += rows.len() as u64;
        Ok(())
    }

    /// Returns the number of rows written.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Completes the table, flushes it to the disk and gives it its name. Returns the number of
    /// rows.
    ///
    /// # Errors
    /// [`CorpusError::Unwritable`]; an earlier file of this name is then unchanged.
    pub fn finish(self) -> Result<u64, CorpusError> {
        match self.table {
            Table::Parquet(table) => table.finish()?,
            Table::Delimited(table) => table.finish()?,
            Table::Json(table) => table.finish()?,
        }
        Ok(self.rows)
    }
}

/// Returns the text's length in characters, the value of the column `length`.
fn length(text: &str) -> u64 {
    text.chars().count() as u64
}
