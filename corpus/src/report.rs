//! Counts of every row's fate. The rows read are the rows kept plus the rows dropped, in total and
//! in each input.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::row::BadRow;

/// The examples kept for each reason.
const EXAMPLES: usize = 3;
/// The characters kept of an example.
const EXAMPLE_CHARS: usize = 80;

/// The reason for dropping a row, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    NotUtf8,
    Oversized,
    NotJson,
    FieldCount,
    NoText,
    Rejected,
    Empty,
    TooShort,
    TooLong,
    DetailsTooLong,
    Language,
    Similarity,
    Aesthetic,
    Nsfw,
    Duplicate,
    NearDuplicate,
}

impl Reason {
    /// Returns the reason in words for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not UTF-8",
            Self::Oversized => "longer than 1 MiB",
            Self::NotJson => "not a JSON object",
            Self::FieldCount => "other number of fields than the header",
            Self::NoText => "no text",
            Self::Rejected => "rejected by the data set itself",
            Self::Empty => "empty text",
            Self::TooShort => "text too short",
            Self::TooLong => "text too long",
            Self::DetailsTooLong => "source or attributes too long",
            Self::Language => "other language",
            Self::Similarity => "similarity too low",
            Self::Aesthetic => "aesthetic score too low",
            Self::Nsfw => "NSFW score too high",
            Self::Duplicate => "exact duplicate",
            Self::NearDuplicate => "near duplicate",
        }
    }
}

impl From<BadRow> for Reason {
    fn from(bad: BadRow) -> Self {
        match bad {
            BadRow::NotUtf8 => Self::NotUtf8,
            BadRow::Oversized => Self::Oversized,
            BadRow::NotJson => Self::NotJson,
            BadRow::FieldCount => Self::FieldCount,
            BadRow::NoText => Self::NoText,
            BadRow::Rejected => Self::Rejected,
        }
    }
}

/// A row that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    pub input: String,
    pub row: u64,
    /// The beginning of its text; empty if the row could not be read.
    pub text: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub count: u64,
    /// The first few.
    pub examples: Vec<Example>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReport {
    pub input: String,
    pub format: String,
    pub read: u64,
    pub kept: u64,
}

/// The counts of a run so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusReport {
    pub read: u64,
    pub kept: u64,
    pub dropped: BTreeMap<Reason, Dropped>,
    /// Rows that passed a bound because they have no such score.
    pub without_score: BTreeMap<String, u64>,
    pub inputs: Vec<InputReport>,
}

impl CorpusReport {
    pub(crate) fn begin(&mut self, input: &str, format: &str) {
        let (input, format) = (input.to_owned(), format.to_owned());
        self.inputs.push(InputReport { input, format, ..InputReport::default() });
    }

    pub(crate) fn keep(&mut self) {
        self.read += 1;
        self.kept += 1;
        if let Some(input) = self.inputs.last_mut() {
            input.read += 1;
            input.kept += 1;
        }
    }

    pub(crate) fn drop(&mut self, reason: Reason, row: u64, text: &str) {
        self.read += 1;
        let Some(input) = self.inputs.last_mut() else { return };
        input.read += 1;
        let input = input.input.clone();
        self.count(reason, input, row, text);
    }

    /// Drops a row that was kept: row number `row` of input number `input`.
    pub fn drop_kept(&mut self, reason: Reason, (input, row): (usize, u64), text: &str) {
        let Some(report) = self.inputs.get_mut(input) else { return };
        report.kept -= 1;
        self.kept -= 1;
        let name = report.input.clone();
        self.count(reason, name, row, text);
    }

    /// Drops `count` kept rows of input number `input`, without examples, because an earlier run
    /// already gave them.
    pub fn drop_many(&mut self, reason: Reason, input: usize, count: u64) {
        let Some(report) = self.inputs.get_mut(input).filter(|_| count > 0) else { return };
        report.kept -= count;
        self.kept -= count;
        self.dropped.entry(reason).or_default().count += count;
    }

    fn count(&mut self, reason: Reason, input: String, row: u64, text: &str) {
        let dropped = self.dropped.entry(reason).or_default();
        dropped.count += 1;
        if dropped.examples.len() < EXAMPLES {
            let text = text.chars().take(EXAMPLE_CHARS).collect();
            dropped.examples.push(Example { input, row, text });
        }
    }

    /// Returns the number of rows that were read and not kept.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.values().map(|dropped| dropped.count).sum()
    }

    /// Returns whether every row that was read is accounted for.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let (read, kept) =
            self.inputs.iter().fold((0, 0), |(read, kept), input| (read + input.read, kept + input.kept));
        self.read == self.kept + self.dropped() && read == self.read && kept == self.kept
    }
}

/// A table for people.
impl fmt::Display for CorpusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for input in &self.inputs {
            writeln!(f, "{} ({}): {} rows read, {} kept", input.input, input.format, input.read, input.kept)?;
        }
        for (reason, dropped) in &self.dropped {
            writeln!(f, "{:>10}  {}", dropped.count, reason.words())?;
            for Example { input, row, text } in &dropped.examples {
                writeln!(f, "            {input}:{row} {text}")?;
            }
        }
        for (score, count) in self.without_score.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "{count:>10}  have no {score} score: its bound let them pass")?;
        }
        write!(f, "{:>10}  read\n{:>10}  dropped\n{:>10}  kept", self.read, self.dropped(), self.kept)
    }
}
