//! Faults of a model's files, and the message that says how to fix them.

use std::fmt;
use std::path::Path;

use crate::manifest::{Model, Source};
use crate::{Sha256, StoreError};

/// The reason why a file is not the published one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileFault {
    Missing,
    Size(u64),
    Content(Sha256),
    Unreadable(String),
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "missing"),
            Self::Size(bytes) => write!(f, "{bytes} bytes are there"),
            Self::Content(sum) => write!(f, "wrong checksum: SHA-256 {sum} is there"),
            Self::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
        }
    }
}

/// The message for a model that is incomplete in its folder: the faulty files, and where to get
/// them.
pub(crate) struct NotHere<'a> {
    pub model: &'a Model,
    pub folder: &'a Path,
    pub faults: &'a [(usize, FileFault)],
    /// The error of each source that could not provide all files; empty if no source was tried.
    pub tried: &'a [String],
}

impl From<NotHere<'_>> for StoreError {
    fn from(message: NotHere<'_>) -> Self {
        Self::NotHere(message.to_string())
    }
}

impl fmt::Display for NotHere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, folder) = (&self.model.name, self.folder.display());
        match self.tried {
            [] => writeln!(f, "{name} is not whole in {folder}; `unprompt models pull {name}` fetches it")?,
            tried => writeln!(f, "{name} cannot be fetched: {}", tried.join("; "))?,
        }
        writeln!(
            f,
            "where it cannot be fetched, bring these files to {folder}, or name a folder that has them by `unprompt models pull {name} --from FOLDER`:"
        )?;
        for (at, fault) in self.faults {
            let file = &self.model.files[*at];
            let bytes = file.bytes.map_or_else(String::new, |bytes| format!("{bytes} bytes  "));
            writeln!(f, "  {}  {bytes}SHA-256 {}  ({fault})", file.path, file.sha256)?;
        }
        let sources: Vec<String> = self.model.sources.iter().map(address).collect();
        if !sources.is_empty() {
            writeln!(f, "they are published in {}", sources.join(", or "))?;
        }
        write!(f, "a model of your own is named by the path of its folder")
    }
}

fn address(source: &Source) -> String {
    match source {
        Source::Hub { repository, revision } => {
            format!("https://huggingface.co/{repository}/tree/{revision}")
        }
        Source::Pypi { .. } => source.to_string(),
    }
}
