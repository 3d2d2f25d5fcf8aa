//! The addresses of the embedded broker and index, kept in the data directory for other commands.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use atomic_write_file::AtomicWriteFile;
use serde::{Deserialize, Serialize};

/// The addresses of a running `unprompt up`. A server that it does not host is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub kafka: Option<SocketAddr>,
    pub qdrant: Option<SocketAddr>,
    pub http: SocketAddr,
    pub pid: u32,
}

impl Endpoints {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("endpoints.json")
    }

    /// Returns the addresses that were last written, if any. Their process may be gone.
    pub fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(data_dir)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the addresses atomically.
    pub fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let write = || {
            let mut file = AtomicWriteFile::open(&path)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.commit()
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Removes the addresses, at a clean stop.
    pub fn remove(data_dir: &Path) {
        // A file that is already gone is fine.
        let _ = std::fs::remove_file(Self::path(data_dir));
    }
}
