//! The crate's error type. Each message says what to do next.

use std::fmt;
use std::path::PathBuf;

/// Errors in finding, checking or fetching a model.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no model {name:?} in the manifest; it knows {known}. A folder is named by its path")]
    Unknown { name: String, known: String },
    #[error("{manifest} cannot be used: {reason}; correct it as models/README.md describes")]
    Manifest { manifest: String, reason: String },
    #[error("{0}")]
    NotHere(String),
    #[error(
        "{file} of {model} from {source_name} has the wrong checksum (SHA-256 {got}, not {wanted}) and was deleted. Pull again; \
             if that does not help, the source has changed: get the file elsewhere and name its folder with --from"
    )]
    Checksum { model: String, file: String, source_name: String, got: String, wanted: String },
    #[error("{}: {reason}; free some space or make the folder writable, and pull again: the download resumes where it stopped", path.display())]
    Folder { path: PathBuf, reason: String },
    #[error(
        "{url} requires a login ({status}); accept the model's terms on the hub and set HF_TOKEN, or log in as the hub's own tools do"
    )]
    Gated { url: String, status: u16 },
    #[error("stopped; the downloaded part is kept, and the next pull resumes there")]
    Stopped,
    #[error("{0}")]
    Download(String),
}

impl StoreError {
    pub(crate) fn folder(path: impl Into<PathBuf>, error: impl fmt::Display) -> Self {
        Self::Folder { path: path.into(), reason: error.to_string() }
    }
}
