//! Access to the prompt index for commands that also work alone: a running index, or the embedded
//! one, hosted for the duration of the command.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use unprompt_index::{IndexError, PromptIndex};
use unprompt_stream::data_dir::DataDir;

use crate::context::Context;
use crate::hosted::{self, EmbeddedIndex};

/// Allows for exact searches of millions of prompts and for large writes.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A client of the prompt index, with the index itself if this process hosts it. End it with
/// [`IndexAccess::close`].
#[derive(Debug)]
pub struct IndexAccess {
    client: PromptIndex,
    hosted: Option<(EmbeddedIndex, DataDir)>,
    /// The folder of an embedded index.
    pub folder: Option<PathBuf>,
    /// The process that hosts the embedded index.
    pub pid: Option<u32>,
}

impl Deref for IndexAccess {
    type Target = PromptIndex;

    fn deref(&self) -> &PromptIndex {
        &self.client
    }
}

impl IndexAccess {
    /// Flushes the index and releases the data directory, if this process holds it.
    pub async fn close(self) -> anyhow::Result<()> {
        drop(self.client);
        match self.hosted {
            Some((index, _lock)) => index.stop().await.map_err(anyhow::Error::from),
            None => Ok(()),
        }
    }
}

impl Context {
    /// Connects to the index of `--qdrant` or `[index] url`, or else to that of the `unprompt up`
    /// on the data directory. If no process holds the data directory, this process hosts its
    /// embedded index until [`IndexAccess::close`].
    pub async fn index_or_host(&self) -> anyhow::Result<IndexAccess> {
        if self.config.index.url.is_some() {
            let client = self.connect(&self.qdrant_url()).await?;
            return Ok(IndexAccess { client, hosted: None, folder: None, pid: None });
        }
        let folder = Some(self.data_dir().join("index"));
        if let Some((url, pid)) = self.running_index() {
            match self.connect(&url).await {
                Ok(client) => return Ok(IndexAccess { client, hosted: None, folder, pid: Some(pid) }),
                // That process did not end cleanly and left its addresses behind.
                Err(IndexError::Unreachable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let lock = DataDir::lock(self.data_dir(), "unprompt index")?;
        let index = hosted::start_index(&self.data_dir().join("index"), 0).await?;
        let url = format!("http://{}", index.address());
        let client = self.connect(&url).await.context("the index that was just started does not answer")?;
        Ok(IndexAccess { client, hosted: Some((index, lock)), folder, pid: Some(std::process::id()) })
    }

    async fn connect(&self, url: &str) -> Result<PromptIndex, IndexError> {
        let mut endpoint = self.config.index.endpoint(url);
        endpoint.options.timeout = TIMEOUT;
        endpoint.connect().await
    }
}
