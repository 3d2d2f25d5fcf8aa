//! The errors of a corpus. Every message says what to do next.

use std::path::{Path, PathBuf};

/// A failure of this crate. Unreadable rows are no failures: they are counted and reported
/// ([`BadRow`](crate::BadRow)), and the rest is read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// The source does not exist or has nothing to read.
    #[error("{source_name}: {reason}")]
    NoInput { source_name: String, reason: String },
    /// The operating system or the object store failed.
    #[error("{input} cannot be read: {reason}")]
    Unreadable { input: String, reason: String },
    /// Neither the name nor the content gives a known format.
    #[error("the format of {input} is not known: {reason}; name it with --format")]
    UnknownFormat { input: String, reason: String },
    /// A column that was asked for or is required does not exist.
    #[error(
        "{input} has no column {column:?}; it has {columns}. Say which holds the prompts with --column text=NAME"
    )]
    NoColumn { input: String, column: String, columns: String },
    /// The file ends too early, or its content is corrupt.
    #[error(
        "{input} is damaged or cut off after row {rows}: {reason}. The rows before it were read; fetch or make the file again, \
         or leave it out"
    )]
    Damaged { input: String, rows: u64, reason: String },
    /// Parquet that is compressed or comes from standard input, so that it cannot be read from its
    /// end.
    #[error(
        "{input}: parquet is read from its end, so neither packed nor from standard input; unpack it into a file whose \
         name ends in .parquet"
    )]
    NotSeekable { input: String },
    /// The options contradict each other or make no sense.
    #[error("{0}")]
    Options(String),
    /// The checkpoint belongs to a run with other inputs or options.
    #[error(
        "{} belongs to a run of other inputs or options: {changed}. Repeat that command, or start over with --restart", path.display()
    )]
    OtherRun { path: PathBuf, changed: String },
    /// The checkpoint cannot be read or written.
    #[error("the checkpoint {} cannot be used: {reason}", path.display())]
    Checkpoint { path: PathBuf, reason: String },
    /// No format for tables has this extension.
    #[error(
        "{} does not name a table format; end the name in .parquet, .csv, .tsv or .jsonl (the last three also with .gz or .zst)",
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
