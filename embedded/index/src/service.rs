//! Qdrant's gRPC services. A method converts its request, calls a shard and converts the result.
//! Where the API leaves a response open, it follows a Qdrant server's.

mod collections;
mod points;
mod reads;
mod snapshots;
mod writes;

use std::sync::Arc;
use std::time::Instant;

use qdrant_client::qdrant::{HealthCheckReply, HealthCheckRequest, qdrant_server};
use tonic::{Request, Response, Status};

use crate::shard::Shard;
use crate::store::CollectionStore;

/// The API version, which clients compare with their own.
const VERSION: &str = "1.20.0";

type GrpcResult<T> = Result<Response<T>, Status>;

/// All services of the endpoint over one store.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    store: Arc<CollectionStore>,
}

impl Service {
    pub fn new(store: Arc<CollectionStore>) -> Self {
        Self { store }
    }

    fn shard(&self, name: &str) -> Result<Arc<Shard>, Status> {
        self.store.shard(name)
    }

    /// Runs work that blocks on files or threads on a blocking thread.
    async fn blocking<T, F>(&self, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&CollectionStore) -> Result<T, Status> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|error| Status::internal(format!("the index failed: {error}")))?
    }
}

/// Seconds since a request arrived. Every response contains this time.
fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

#[tonic::async_trait]
impl qdrant_server::Qdrant for Service {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> GrpcResult<HealthCheckReply> {
        let title = "unprompt embedded index (qdrant-edge)".to_owned();
        Ok(Response::new(HealthCheckReply { title, version: VERSION.to_owned(), commit: None }))
    }
}
