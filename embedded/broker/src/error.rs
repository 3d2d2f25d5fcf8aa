//! What can go wrong with the broker, each variant saying what to do next.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedBrokerError {
    /// The port is taken.
    #[error("{address} cannot be listened on: {source}; choose another port, or 0 for any")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },

    /// The data directory cannot be made, read or written.
    #[error(
        "the broker's data directory {}: {source}; check that this user may write to it and that its disk has room",
        path.display()
    )]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    /// SQLite's URL would escape the path of the data directory.
    #[error(
        "the broker's data directory {}: choose one whose path has only letters, digits, . _ - and /",
        path.display()
    )]
    EscapedPath { path: PathBuf },

    /// nisshi's storage failed.
    #[error(
        "the embedded broker's storage: {0}; if its file is damaged, put back a copy of the data directory or give \
         an empty one"
    )]
    Storage(String),

    /// A thread could not be started.
    #[error("the embedded broker got no thread: {0}; the machine is out of memory or threads")]
    Thread(#[source] io::Error),

    /// The broker's thread ended unasked.
    #[error("the embedded broker {0}; see the log for the reason, and start it again")]
    Ended(&'static str),
}

impl EmbeddedBrokerError {
    pub(crate) fn storage(error: impl Display) -> Self {
        Self::Storage(error.to_string())
    }

    /// Names the data directory, or the path in it, that an operation failed on.
    pub(crate) fn data_dir(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::DataDir { path: path.to_owned(), source }
    }
}
