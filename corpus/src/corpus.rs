//! A run over many inputs: read, cleaned, numbered, counted. The same inputs and options give the same rows with the
//! same numbers, so that a run which stopped is done again up to where it was, quickly, and goes on.

use serde::{Deserialize, Serialize};

use crate::CorpusError;
use crate::checkpoint::{Fingerprint, FoundInput};
use crate::clean::{Cleaner, Cleaning, CountTokens};
use crate::reader::{Reader, Reading};
use crate::report::{Reason, Report};
use crate::row::Row;
use crate::source::{self, Input};

/// What is read, and how.
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
    /// Its number among those kept, from 0.
    pub seq: u64,
    /// The number of its input, from 0.
    pub input: usize,
    /// Its number in its input, from 1.
    pub number: u64,
    pub row: Row,
}

/// The kept rows of a run.
#[derive(Debug)]
pub struct Corpus {
    options: Options,
    inputs: Vec<Input>,
    cleaner: Cleaner,
    report: Report,
    /// The number of the input that is read, or read next.
    at: usize,
    reader: Option<Reader>,
    /// Bytes of the inputs read to their ends.
    bytes_before: u64,
    /// Kept rows before this number are passed over.
    from: u64,
    /// What ended the run, to be told after the rows before it.
    fault: Option<CorpusError>,
}

impl Corpus {
    /// Finds the inputs. Nothing is read yet. `count_tokens` counts for the bounds on tokens; without it words are
    /// counted.
    ///
    /// # Errors
    /// Those of [`source::expand`] and of [`Cleaner::new`].
    pub fn open(options: Options, count_tokens: Option<CountTokens>) -> Result<Self, CorpusError> {
        let inputs = source::expand(&options.sources)?;
        let cleaner = Cleaner::new(options.cleaning.clone(), count_tokens)?;
        let (report, at, reader, bytes_before, from) = (Report::default(), 0, None, 0, 0);
        Ok(Self { options, inputs, cleaner, report, at, reader, bytes_before, from, fault: None })
    }

    /// What decides this run's rows.
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

    /// Whether a second run can read the same again: not from standard input, nor from a pipe.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.inputs.iter().all(|input| input.size.is_some())
    }

    /// Passes over the first `acknowledged` kept rows: they are read and cleaned, since later rows may be their
    /// duplicates.
    pub fn resume(&mut self, acknowledged: u64) {
        self.from = acknowledged;
    }

    /// Up to `count` kept rows; none at the end.
    ///
    /// # Errors
    /// Those of [`Reader`], once all rows before were returned. After an error it ends.
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

    /// The open input; none when all are read.
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

    /// What became of the rows read so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = self.report.clone();
        let counts = self.cleaner.without_score().into_iter().filter(|(_, count)| *count > 0);
        report.without_score = counts.map(|(score, count)| (score.to_owned(), count)).collect();
        report
    }

    /// Rows read so far.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.report.read
    }

    /// Bytes read so far, as the inputs are packed.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before + self.reader.as_ref().map_or(0, Reader::bytes)
    }

    /// Bytes of all inputs; none where one does not say.
    #[must_use]
    pub fn bytes_total(&self) -> Option<u64> {
        self.inputs.iter().map(|input| input.size).sum()
    }

    #[must_use]
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }
}
