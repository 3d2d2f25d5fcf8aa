//! Where the embedded broker and index listen, left in the data directory for the other commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The addresses of a running `unprompt up`; a server that it does not host itself has none here.
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

    /// The addresses that were last written, if any; the process may be gone since.
    pub fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(data_dir)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Leaves the addresses, whole or not at all.
    pub fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Removes them at a clean stop.
    pub fn remove(data_dir: &Path) {
        // Already gone is as good.
        let _ = std::fs::remove_file(Self::path(data_dir));
    }
}
