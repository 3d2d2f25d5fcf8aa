//! The client of the collection: connecting and reading. Laying out is in `ensure`, writing in `write`.

mod ensure;
mod write;

use std::sync::Arc;
use std::time::Duration;

use qdrant_client::qdrant::{
    CountPoints, GetPoints, PointId, QueryBatchPoints, QueryPoints, ScrollPoints, WithPayloadSelector,
};
use qdrant_client::{Qdrant, QdrantError};
use tonic::Code;
use uuid::Uuid;

use crate::{ALIAS, Filter, Hit, IndexError, Layout, PromptPoint, Query, Space, payload};

pub use ensure::{Ensured, IndexInfo, IndexState};

/// How to talk to the index; the default suits one machine and a cluster alike.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The alias of the collection, and the first part of its name.
    pub alias: String,
    pub api_key: Option<secret::ApiKey>,
    /// The longest a request may take.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Points in one upsert request.
    pub chunk_points: usize,
    /// Upsert requests under way at once.
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

/// A key that cannot be printed.
mod secret {
    /// Qdrant's API key; prints as stars.
    #[derive(Clone)]
    pub struct ApiKey(String);

    impl ApiKey {
        pub(super) fn expose(&self) -> &str {
            &self.0
        }
    }

    impl From<String> for ApiKey {
        fn from(key: String) -> Self {
            Self(key)
        }
    }

    impl std::fmt::Debug for ApiKey {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("***")
        }
    }
}

/// The collection of prompts. Cheap to clone; clones share their connection.
///
/// Writers: an upsert reads what is known of its prompts, merges and writes. Two writers must therefore never write
/// the same prompt at once. They do not, where each partition of prompt-embeddings has one consumer, for a prompt's
/// records are keyed by prompt_id and so live in one partition.
#[derive(Clone)]
pub struct PromptIndex {
    client: Arc<Qdrant>,
    url: Arc<str>,
    options: ConnectOptions,
    /// The alias, or a collection beside it.
    target: Arc<str>,
    layout: Arc<std::sync::OnceLock<Layout>>,
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
    /// Connects to Qdrant's gRPC at `url` (`http://host:6334`) and asks whether it is healthy.
    ///
    /// # Errors
    /// [`IndexError::InvalidUrl`], [`IndexError::Unreachable`].
    pub async fn connect(url: &str, options: ConnectOptions) -> Result<Self, IndexError> {
        let config = Qdrant::from_url(url)
            .timeout(options.timeout)
            .connect_timeout(options.connect_timeout)
            .api_key(options.api_key.as_ref().map(|key| key.expose().to_owned()))
            // The client's own check blocks this thread, which may be the one that serves the answer.
            .skip_compatibility_check();
        let client = config.build().map_err(|_| IndexError::InvalidUrl { url: url.to_owned() })?;
        let (target, layout) = (options.alias.as_str().into(), Arc::default());
        let index = Self { client: Arc::new(client), url: url.into(), target, layout, options };
        let version = index.health().await?;
        tracing::debug!(%url, %version, "connected to qdrant");
        Ok(index)
    }

    /// The server's version, if it answers.
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

    /// How many prompts pass `filter`.
    pub async fn count(&self, filter: &Filter) -> Result<u64, IndexError> {
        let collection_name = self.target.to_string();
        let filter = filter.to_qdrant()?;
        let request = CountPoints { collection_name, filter, exact: Some(true), ..Default::default() };
        let answer = self.client.count(request).await.map_err(|e| self.error("count", e))?;
        Ok(answer.result.map_or(0, |result| result.count))
    }

    /// The prompts of these ids that are in the index, in no particular order.
    pub async fn get(&self, ids: &[Uuid], with_vectors: bool) -> Result<Vec<PromptPoint>, IndexError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(self.options.chunk_points.max(1)) {
            let request = GetPoints {
                collection_name: self.target.to_string(),
                ids: chunk.iter().copied().map(payload::point_id).collect(),
                with_payload: Some(true.into()),
                with_vectors: Some(with_vectors.into()),
                ..Default::default()
            };
            let answer = self.client.get_points(request).await.map_err(|e| self.error("get points", e))?;
            for point in answer.result {
                found.push(payload::to_prompt(point)?);
            }
        }
        Ok(found)
    }

    /// The prompts nearest to a query, best first.
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, IndexError> {
        let request = query.to_qdrant(&self.target)?;
        let answer = self.client.query(request).await.map_err(|e| self.error("search", e))?;
        answer.result.into_iter().map(payload::to_hit).collect()
    }

    /// The answers to several queries, in their order.
    pub async fn search_batch(&self, queries: &[Query]) -> Result<Vec<Vec<Hit>>, IndexError> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let query_points: Vec<QueryPoints> =
            queries.iter().map(|query| query.to_qdrant(&self.target)).collect::<Result<_, _>>()?;
        let collection_name = self.target.to_string();
        let request = QueryBatchPoints { collection_name, query_points, ..Default::default() };
        let answer = self.client.query_batch(request).await.map_err(|e| self.error("search", e))?;
        let hits = |result: qdrant_client::qdrant::BatchResult| {
            result.result.into_iter().map(payload::to_hit).collect::<Result<Vec<_>, _>>()
        };
        answer.result.into_iter().map(hits).collect()
    }

    /// One page of the prompts that pass `filter`, in the order of their ids, and where the next page starts.
    pub async fn page(
        &self,
        filter: &Filter,
        from: Option<Uuid>,
        limit: u32,
        with_vectors: &[Space],
    ) -> Result<(Vec<PromptPoint>, Option<Uuid>), IndexError> {
        let request = ScrollPoints {
            collection_name: self.target.to_string(),
            filter: filter.to_qdrant()?,
            offset: from.map(payload::point_id),
            limit: Some(limit),
            with_payload: Some(WithPayloadSelector::from(true)),
            with_vectors: Some(payload::vectors_selector(with_vectors)),
            ..Default::default()
        };
        let answer = self.client.scroll(request).await.map_err(|e| self.error("page through points", e))?;
        let next = answer.next_page_offset.map(|id: PointId| payload::prompt_id(Some(id))).transpose()?;
        let points = answer.result.into_iter().map(payload::to_prompt).collect::<Result<_, _>>()?;
        Ok((points, next))
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
