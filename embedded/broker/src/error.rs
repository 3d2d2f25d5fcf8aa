//! Errors of the embedded broker. Each message says what to do next.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedBrokerError {
    /// The port is taken.
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for any")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },

    /// The data directory cannot be created, read or written.
    #[error(
        "the broker's data directory {}: {source}; check that this user may write to it and that its disk has room",
        path.display()
    )]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    /// The path of the data directory has characters that SQLite's URL would escape.
    #[error(
        "the broker's data directory {}: choose one whose path has only letters, digits, . _ - and /",
        path.display()
    )]
    EscapedPath { path: PathBuf },

    /// nisshi's storage failed.
    #[error(
        "the embedded broker's storage: {0}; if its file is damaged, restore a copy of the data directory or give \
         an empty one"
    )]
    Storage(String),

    /// A thread could not be started.
    #[error("the embedded broker cannot start a thread: {0}; the machine is out of memory or threads")]
    Thread(#[source] io::Error),

    /// The broker's thread ended without being told to.
    #[error("the embedded broker {0}; see the log for the reason, and start it again")]
    Ended(&'static str),
}

impl EmbeddedBrokerError {
    pub(crate) fn storage(error: impl Display) -> Self {
        Self::Storage(error.to_string())
    }

    /// Returns a closure that wraps an I/O error with the path (the data directory or a path in it)
    /// that the operation failed on.
    pub(crate) fn data_dir(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::DataDir { path: path.to_owned(), source }
    }
}
