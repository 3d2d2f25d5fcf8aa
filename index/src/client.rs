//! The client of the collection and its connection. `ensure` lays out, `write` writes, `search`
//! reads.

mod bulk;
mod deletions;
mod ensure;
mod parts;
mod recall;
mod search;
pub(crate) mod snapshot;
mod stats;
mod write;

use std::sync::Arc;
use std::time::Duration;

use qdrant_client::{Qdrant, QdrantError};
use secrecy::{ExposeSecret, SecretString};
use tonic::Code;

use crate::{ALIAS, IndexError, Layout, Profile};

pub use ensure::{Ensured, IndexInfo, IndexState};
pub use recall::{RecallAt, RecallOptions};
pub use snapshot::{Restored, SnapshotInfo};
pub use stats::{FieldIndex, IndexStats, SourceCount};

/// The options of a connection to the index; the defaults suit one machine and a cluster alike.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The alias of the collection, and the first part of its name.
    pub alias: String,
    pub api_key: Option<SecretString>,
    /// The timeout of a request.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Points per upsert request.
    pub chunk_points: usize,
    /// Upsert requests in flight at once.
    pub parallel_chunks: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            alias: ALIAS.into(),
            api_key: None,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            chunk_points: 256,
            parallel_chunks: 4,
        }
    }
}

/// The address of the index and the options of its client.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The URL of Qdrant's gRPC API, such as `http://127.0.0.1:6334`.
    pub url: String,
    pub options: ConnectOptions,
}

impl Endpoint {
    /// Connects; fails if the index does not answer.
    ///
    /// # Errors
    /// The same as [`PromptIndex::connect`].
    pub async fn connect(&self) -> Result<PromptIndex, IndexError> {
        PromptIndex::connect(&self.url, self.options.clone()).await
    }
}

/// The collection of prompts. Cheap to clone; clones share their connection.
///
/// An upsert reads the known state of its prompts, merges and writes. Two writers must therefore
/// never write the same prompt at once. They do not as long as each partition of prompt-embeddings
/// has one consumer: records are keyed by prompt_id, so all records of a prompt are in one
/// partition.
#[derive(Clone)]
pub struct PromptIndex {
    client: Arc<Qdrant>,
    url: Arc<str>,
    options: ConnectOptions,
    /// The alias, or a collection beside it.
    target: Arc<str>,
    layout: Arc<std::sync::OnceLock<Layout>>,
    /// The collection's own profile, once it is known.
    profile: Arc<std::sync::OnceLock<Profile>>,
    /// Set between `begin_bulk` and `finish_bulk`: writes use larger chunks.
    bulk: Arc<std::sync::atomic::AtomicBool>,
}

impl std::fmt::Debug for PromptIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PromptIndex")
            .field("url", &self.url)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl PromptIndex {
    /// Connects to Qdrant's gRPC API at `url` (`http://host:6334`) and checks that it is healthy.
    ///
    /// # Errors
    /// [`IndexError::InvalidUrl`], [`IndexError::Unreachable`].
    pub async fn connect(url: &str, options: ConnectOptions) -> Result<Self, IndexError> {
        let config = Qdrant::from_url(url)
            .timeout(options.timeout)
            .connect_timeout(options.connect_timeout)
            .api_key(options.api_key.as_ref().map(|key| key.expose_secret().to_owned()))
            // The client's own check blocks this thread, which may be the one that serves the
            // answer.
            .skip_compatibility_check();
        let client = config.build().map_err(|_| IndexError::InvalidUrl { url: url.to_owned() })?;
        let target = options.alias.as_str().into();
        let (layout, profile, bulk) = (Arc::default(), Arc::default(), Arc::default());
        let index =
            Self { client: Arc::new(client), url: url.into(), target, layout, profile, bulk, options };
        let version = index.health().await?;
        tracing::debug!(%url, %version, "connected to qdrant");
        Ok(index)
    }

    /// Returns the server's version.
    ///
    /// # Errors
    /// [`IndexError::Unreachable`].
    pub async fn health(&self) -> Result<String, IndexError> {
        let unreachable = |error: QdrantError| {
            let reason = match IndexError::from_client("answer", error) {
                IndexError::Server { code, message, .. } => format!("{code:?}: {message}"),
                other => other.to_string(),
            };
            IndexError::Unreachable { url: self.url.to_string(), reason }
        };
        Ok(self.client.health_check().await.map_err(unreachable)?.version)
    }

    fn error(&self, operation: &'static str, error: QdrantError) -> IndexError {
        match IndexError::from_client(operation, error) {
            IndexError::Server { code: Code::NotFound, .. } => {
                IndexError::NoCollection { alias: self.target.to_string() }
            }
            IndexError::Server { code: Code::Internal, message, .. }
                if message.starts_with("Failed to connect") =>
            {
                IndexError::Unreachable { url: self.url.to_string(), reason: message }
            }
            other => other,
        }
    }
}
