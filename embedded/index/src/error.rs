//! Errors of the endpoint itself. Each message says what to do next. A failed request is a gRPC
//! status instead ([`crate::status`]).

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedIndexError {
    /// The folder is in use, cannot be written, or holds other files.
    #[error("the index's folder {} cannot be used: {reason}", path.display())]
    Folder { path: PathBuf, reason: String },

    /// The folder holds an index whose files are damaged.
    #[error(
        "the index's folder {} is damaged ({reason}); restore a copy of the folder, or move it away and \
         fill a new one",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },

    /// The port is taken.
    #[error("cannot listen on 127.0.0.1:{port}: {reason}; choose another port, or 0 for any")]
    Listen { port: u16, reason: String },
}

impl EmbeddedIndexError {
    pub(crate) fn damaged(path: &Path, reason: impl Display) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.to_string() }
    }
}
