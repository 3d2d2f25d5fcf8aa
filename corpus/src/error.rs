//! What can go wrong with a corpus, and what to do about it.

use std::path::{Path, PathBuf};

/// Every failure of this crate. Rows that cannot be read are none: they are counted and told (`reader::BadRow`), and
/// the rest is read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// Nothing there, or nothing to read in it.
    #[error("{source_name}: {reason}")]
    NoInput { source_name: String, reason: String },
    /// The operating system or the object store failed.
    #[error("{input} cannot be read: {reason}")]
    Unreadable { input: String, reason: String },
    /// What the name and the content say is no format that is known.
    #[error("{input} is in no format that is known here: {reason}; say which with --format")]
    UnknownFormat { input: String, reason: String },
    /// A column that was asked for, or must be there, is not.
    #[error(
        "{input} has no column {column:?}; it has {columns}. Say which holds the prompts with --column text=NAME"
    )]
    NoColumn { input: String, column: String, columns: String },
    /// The file ends too early, or its bytes are not what they should be.
    #[error(
        "{input} is damaged or cut off after row {rows}: {reason}. The rows before it were read; fetch or make the file again, \
         or leave it out"
    )]
    Damaged { input: String, rows: u64, reason: String },
    /// Parquet where it cannot be read from its end.
    #[error(
        "{input}: parquet is read from its end, so neither packed nor from standard input; unpack it into a file whose \
         name ends in .parquet"
    )]
    NotSeekable { input: String },
    /// The options contradict each other or mean nothing.
    #[error("{0}")]
    Options(String),
    /// A run was begun with other inputs or other options.
    #[error(
        "{} is of another run: {changed}. Give what was given then, or begin again with --restart", path.display()
    )]
    OtherRun { path: PathBuf, changed: String },
    /// The record of how far a run is cannot be read or written.
    #[error("how far the run is cannot be kept in {}: {reason}", path.display())]
    Checkpoint { path: PathBuf, reason: String },
    /// A table in a format that is not written.
    #[error(
        "{} names no kind of table; end the name in .parquet, .csv, .tsv or .jsonl (the last three also with .gz or .zst)",
        path.display()
    )]
    UnknownTable { path: PathBuf },
    /// A table could not be written.
    #[error("{} cannot be written: {reason}", path.display())]
    Unwritable { path: PathBuf, reason: String },
}

impl CorpusError {
    pub(crate) fn unreadable(input: impl Into<String>, reason: impl ToString) -> Self {
        Self::Unreadable { input: input.into(), reason: reason.to_string() }
    }

    pub(crate) fn unwritable(path: &Path, reason: impl ToString) -> Self {
        Self::Unwritable { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl ToString) -> Self {
        Self::Checkpoint { path: path.to_owned(), reason: reason.to_string() }
    }
}
