//! The one error type of the crate. Each variant says what to do next.

use std::fmt;
use std::path::PathBuf;

use crate::manifest::{Model, Source};
use crate::store::Fault;

/// What can go wrong in finding, checking or fetching a model.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no model {name:?} in the manifest; it knows {known}. A folder is named by its path")]
    Unknown { name: String, known: String },
    #[error("{manifest} cannot be used: {reason}; correct it as models/README.md describes")]
    Manifest { manifest: String, reason: String },
    #[error("{0}")]
    NotHere(Box<NotHere>),
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

/// A model that is not whole in its folder: what is wrong, and what to bring from where.
#[derive(Debug)]
pub struct NotHere {
    pub model: Model,
    pub folder: PathBuf,
    pub faults: Vec<(usize, Fault)>,
    /// Why it could not be fetched, where that was tried.
    pub tried: Vec<String>,
}

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, folder) = (&self.model.name, self.folder.display());
        match self.tried.as_slice() {
            [] => writeln!(f, "{name} is not whole in {folder}; `unprompt models pull {name}` fetches it")?,
            tried => writeln!(f, "{name} cannot be fetched: {}", tried.join("; "))?,
        }
        writeln!(
            f,
            "where it cannot be fetched, bring these files to {folder}, or name a folder that has them by `unprompt models pull {name} --from FOLDER`:"
        )?;
        for (at, fault) in &self.faults {
            let file = &self.model.files[*at];
            let bytes = file.bytes.map_or_else(String::new, |bytes| format!("{bytes} bytes  "));
            writeln!(f, "  {}  {bytes}SHA-256 {}  ({fault})", file.path, file.sha256)?;
        }
        let sources: Vec<String> = self.model.sources.iter().map(place).collect();
        if !sources.is_empty() {
            writeln!(f, "they are published in {}", sources.join(", or "))?;
        }
        write!(f, "a model of your own is named by the path of its folder")
    }
}

fn place(source: &Source) -> String {
    match source {
        Source::Hub { repository, revision } => {
            format!("https://huggingface.co/{repository}/tree/{revision}")
        }
        Source::Pypi { .. } => source.to_string(),
    }
}
