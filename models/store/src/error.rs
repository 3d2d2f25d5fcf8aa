//! The one error type of the crate. Each variant says what to do next.

use std::fmt;
use std::path::PathBuf;

/// What can go wrong in finding, checking or fetching a model.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no model {name:?} in the manifest; it knows {known}. A folder is named by its path")]
    Unknown { name: String, known: String },
    #[error("{manifest} cannot be used: {reason}; correct it as models/README.md describes")]
    Manifest { manifest: String, reason: String },
    #[error("{0}")]
    NotHere(String),
    #[error(
        "{file} of {model} came with another checksum from {source_name} (SHA-256 {got}, not {wanted}); it was thrown away. \
             Pull again; if it stays so, the source was changed: get the file elsewhere and name its folder by --from"
    )]
    Checksum { model: String, file: String, source_name: String, got: String, wanted: String },
    #[error("{}: {reason}; free some space or make the folder writable, and pull again: it goes on where it was", path.display())]
    Folder { path: PathBuf, reason: String },
    #[error(
        "{url} asks who you are ({status}); accept the model's terms on the hub and set HF_TOKEN, or log in as the hub's own tools do"
    )]
    Gated { url: String, status: u16 },
    #[error("stopped; what has come stays, and pulling again goes on where it was")]
    Stopped,
    #[error("{0}")]
    Download(String),
}

impl StoreError {
    pub(crate) fn folder(path: impl Into<PathBuf>, error: impl fmt::Display) -> Self {
        Self::Folder { path: path.into(), reason: error.to_string() }
    }
}
