//! A run over many inputs: their rows are read, cleaned, numbered and counted.
//!
//! The same inputs and options give the same rows with the same numbers, so a stopped run can
//! resume by reading again up to where it stopped.

use serde::{Deserialize, Serialize};

use crate::CorpusError;
use crate::checkpoint::{Fingerprint, FoundInput};
use crate::clean::{Cleaner, Cleaning, CountTokens};
use crate::reader::{Reader, Reading};
use crate::report::{CorpusReport, Reason};
use crate::row::Row;
use crate::source::{self, Input};

/// The inputs of a run and how they are read and cleaned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Files, folders, globs, `-`, `s3://…`, `http(s)://…`.
    pub sources: Vec<String>,
    pub reading: Reading,
    pub cleaning: Cleaning,
}

/// A row that was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Clean {
    /// The number among the kept rows, from 0.
    pub seq: u64,
    /// The number of its input, from 0.
    pub input: usize,
    /// The number of the row in its input, from 1.
    pub number: u64,
    pub row: Row,
}

/// The kept rows of a run.
#[derive(Debug)]
pub struct Corpus {
    options: Options,
    inputs: Vec<Input>,
    cleaner: Cleaner,
    report: CorpusReport,
    /// The number of the input that is read now, or next.
    at: usize,
    reader: Option<Reader>,
    /// The bytes of the inputs that were read to their ends.
    bytes_before: u64,
    /// Kept rows before this number are skipped.
    from: u64,
    /// The error that ended the run, returned after the rows before it.
    fault: Option<CorpusError>,
}

impl Corpus {
    /// Finds the inputs and reads nothing yet. `count_tokens` counts for the bounds on tokens;
    /// without it, words are counted.
    ///
    /// # Errors
    /// Those of [`source::expand`] and of [`Cleaner::new`].
    pub fn open(options: Options, count_tokens: Option<CountTokens>) -> Result<Self, CorpusError> {
        let inputs = source::expand(&options.sources)?;
        let cleaner = Cleaner::new(options.cleaning.clone(), count_tokens)?;
        let (report, at, reader, bytes_before, from) = (CorpusReport::default(), 0, None, 0, 0);
        Ok(Self { options, inputs, cleaner, report, at, reader, bytes_before, from, fault: None })
    }

    /// Returns everything that determines this run's rows.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let found = self.inputs.iter().map(|input| FoundInput {
            name: input.name.clone(),
            size: input.size,
            version: input.version.clone(),
        });
        let options = serde_json::json!({
            "reading": self.options.reading,
            "cleaning": self.options.cleaning,
        });
        Fingerprint { sources: self.options.sources.clone(), inputs: found.collect(), options }
    }

    /// Returns whether a second run can read the same rows again. It cannot from standard input or
    /// a pipe.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.inputs.iter().all(|input| input.size.is_some())
    }

    /// Returns whether no two rows have the same prompt.
    #[must_use]
    pub fn has_distinct_prompts(&self) -> bool {
        !self.options.cleaning.keep_duplicates
    }

    /// Skips the first `acknowledged` kept rows. They are still read and cleaned, because later
    /// rows may be their duplicates.
    pub fn resume(&mut self, acknowledged: u64) {
        self.from = acknowledged;
    }

    /// Returns up to `count` kept rows; none at the end.
    ///
    /// # Errors
    /// Those of [`Reader`], after all rows before the error were returned. The run ends with the
    /// error.
    pub fn next_chunk(&mut self, count: usize) -> Result<Vec<Clean>, CorpusError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut chunk = Vec::with_capacity(count.min(4_096));
        while chunk.len() < count {
            match self.next_row() {
                Ok(None) => break,
                Ok(Some(clean)) => chunk.push(clean),
                Err(fault) => {
                    (self.reader, self.at) = (None, self.inputs.len());
                    if chunk.is_empty() {
                        return Err(fault);
                    }
                    self.fault = Some(fault);
                    break;
                }
            }
        }
        Ok(chunk)
    }

    fn next_row(&mut self) -> Result<Option<Clean>, CorpusError> {
        loop {
            let Some(reader) = self.reader()? else { return Ok(None) };
            let Some(entry) = reader.next().transpose()? else {
                self.end_input();
                continue;
            };
            let row = match entry.content.map_err(|bad| (Reason::from(bad), String::new())) {
                Ok(row) => self.cleaner.clean(row),
                Err(dropped) => Err(dropped),
            };
            match row {
                Err((reason, text)) => self.report.drop(reason, entry.row, &text),
                Ok(row) => {
                    let seq = self.report.kept;
                    self.report.keep();
                    if seq >= self.from {
                        return Ok(Some(Clean { seq, input: self.at, number: entry.row, row }));
                    }
                }
            }
        }
    }

    /// Returns the open input; none if all are read.
    fn reader(&mut self) -> Result<Option<&mut Reader>, CorpusError> {
        if self.reader.is_none() {
            let Some(input) = self.inputs.get(self.at) else { return Ok(None) };
            let reader = Reader::open(input, &self.options.reading)?;
            self.report.begin(&input.name, reader.format().name());
            self.reader = Some(reader);
        }
        Ok(self.reader.as_mut())
    }

    fn end_input(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.bytes_before += self.inputs[self.at].size.unwrap_or_else(|| reader.bytes());
        }
        self.at += 1;
    }

    /// Returns the counts of the rows read so far.
    #[must_use]
    pub fn report(&self) -> CorpusReport {
        let mut report = self.report.clone();
        let counts = self.cleaner.without_score().into_iter().filter(|(_, count)| *count > 0);
        report.without_score = counts.map(|(score, count)| (score.to_owned(), count)).collect();
        report
    }

    /// Returns the number of rows read so far.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.report.read
    }

    /// Returns the bytes read so far, before decompression.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before + self.reader.as_ref().map_or(0, Reader::bytes)
    }

    /// Returns the bytes of all inputs; none if the size of one is unknown.
    #[must_use]
    pub fn bytes_total(&self) -> Option<u64> {
        self.inputs.iter().map(|input| input.size).sum()
    }

    #[must_use]
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }
}
