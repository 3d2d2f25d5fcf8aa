//! Tables as text: CSV, TSV, JSON lines. It knows nothing of files and compression.

use std::io::{self, Write};

use serde::Serialize;

use super::output::Output;
use super::{Columns, ExportRow, length};
use crate::CorpusError;

/// CSV or TSV with a header; lists and attributes are JSON.
///
/// A text that a spreadsheet would take for a formula gets an apostrophe before it, as OWASP
/// advises ("CSV Injection"). JSON lines and Parquet hold every text as it is.
#[derive(Debug)]
pub(super) struct DelimitedTable {
    writer: csv::Writer<Output>,
    columns: Columns,
    path: std::path::PathBuf,
}

impl DelimitedTable {
    pub fn create(output: Output, delimiter: u8, columns: Columns) -> Result<Self, CorpusError> {
        let path = output.path().to_owned();
        let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(output);
        writer.write_record(columns.names()).map_err(|error| CorpusError::unwritable(&path, error))?;
        Ok(Self { writer, columns, path })
    }

    pub fn write(&mut self, rows: &[ExportRow]) -> Result<(), CorpusError> {
        for row in rows {
            let fields = fields(row, self.columns);
            self.writer.write_record(fields).map_err(|error| CorpusError::unwritable(&self.path, error))?;
        }
        Ok(())
    }

    pub fn finish(self) -> Result<(), CorpusError> {
        let output = self.writer.into_inner().map_err(|error| CorpusError::unwritable(&self.path, error))?;
        output.finish()
    }
}

fn fields(row: &ExportRow, columns: Columns) -> Vec<String> {
    let mut fields = vec![
        row.prompt_id.to_string(),
        no_formula(&row.text),
        json(&row.sources),
        row.created_at_ms.map(|ms| ms.to_string()).unwrap_or_default(),
        json(&row.attributes),
        length(&row.text).to_string(),
    ];
    if columns.similarity {
        fields.push(row.similarity.map(|similarity| similarity.to_string()).unwrap_or_default());
    }
    if columns.seeds {
        fields.push(json(&row.seeds));
    }
    if columns.vectors {
        fields.extend([&row.minilm, &row.clip].map(|vector| vector.as_ref().map(json).unwrap_or_default()));
    }
    fields
}

fn no_formula(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

/// Serializes a list or map of texts and numbers, which cannot fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// One JSON object per line.
#[derive(Debug)]
pub(super) struct JsonTable {
    output: Output,
    columns: Columns,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    row: &'a ExportRow,
    length: u64,
}

impl JsonTable {
    pub fn new(output: Output, columns: Columns) -> Self {
        Self { output, columns }
    }

    pub fn write(&mut self, rows: &[ExportRow]) -> Result<(), CorpusError> {
        for row in rows {
            self.line(row).map_err(|error| CorpusError::unwritable(self.output.path(), error))?;
        }
        Ok(())
    }

    fn line(&mut self, row: &ExportRow) -> io::Result<()> {
        let length = length(&row.text);
        if self.columns == (Columns { similarity: true, seeds: true, vectors: true }) {
            serde_json::to_writer(&mut self.output, &Line { row, length })?;
        } else {
            serde_json::to_writer(&mut self.output, &Line { row: &chosen(row, self.columns), length })?;
        }
        self.output.write_all(b"\n")
    }

    pub fn finish(self) -> Result<(), CorpusError> {
        self.output.finish()
    }
}

/// Returns the row without the fields that have no column.
fn chosen(row: &ExportRow, columns: Columns) -> ExportRow {
    ExportRow {
        prompt_id: row.prompt_id,
        text: row.text.clone(),
        sources: row.sources.clone(),
        created_at_ms: row.created_at_ms,
        attributes: row.attributes.clone(),
        similarity: row.similarity.filter(|_| columns.similarity),
        seeds: if columns.seeds { row.seeds.clone() } else { Vec::new() },
        minilm: row.minilm.clone().filter(|_| columns.vectors),
        clip: row.clip.clone().filter(|_| columns.vectors),
    }
}
