//! Qdrant's gRPC API over qdrant-edge, in this process, for one machine without a Qdrant server.
//!
//! Any Qdrant client can talk to it. It binds 127.0.0.1 only and knows no keys. A write
//! acknowledged with wait=true survives a kill at any moment. What it does not cover answers
//! UNIMPLEMENTED and names the method; the crate's README lists what it does cover. This crate
//! knows collections, points and Qdrant's messages; it must not know prompts.

mod convert;
mod disk_space;
mod error;
mod service;
mod shard;
mod status;
mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::QdrantServer;
use qdrant_client::qdrant::snapshots_server::SnapshotsServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use self::service::Service;
use self::store::Store;
pub use crate::error::EmbeddedIndexError;

/// The largest message, in and out: tonic's own 4 MiB would refuse a thousand points.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// The time that a stop waits for requests under way, and then for an optimisation.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The endpoint. It serves until [`EmbeddedIndex::stop`]; dropped without it, it stops in the
/// background.
#[derive(Debug)]
pub struct EmbeddedIndex {
    address: SocketAddr,
    shutdown: CancellationToken,
    server: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    store: Arc<Store>,
}

impl EmbeddedIndex {
    /// Opens the collections in `data_dir` and serves them on 127.0.0.1 at `port`; 0 takes any free
    /// one, which [`EmbeddedIndex::address`] tells. Creates the folder if it is missing, and locks
    /// it for this process. It serves once this returns.
    ///
    /// # Errors
    ///
    /// [`EmbeddedIndexError::Folder`] for a folder that is in use or holds something else,
    /// [`EmbeddedIndexError::Damaged`], [`EmbeddedIndexError::Listen`].
    pub async fn start(data_dir: &Path, port: u16) -> Result<Self, EmbeddedIndexError> {
        // The port first: opening may take a while, and a taken port is known at once.
        let listen = |error: std::io::Error| EmbeddedIndexError::Listen { port, reason: error.to_string() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let path = data_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
        let panicked = |error| EmbeddedIndexError::damaged(data_dir, format!("opening it failed: {error}"));
        let store = Arc::new(opened.map_err(panicked)??);
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::clone(&store), shutdown.clone()));
        tracing::info!(%address, folder = %data_dir.display(), "embedded index serves qdrant's grpc");
        Ok(Self { address, shutdown, server: Some(server), store })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as clients take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends requests, writes everything out and releases the folder. It waits a few seconds for an
    /// optimisation under way. Ending the process before that is safe: the next start finds the
    /// state before the optimisation.
    ///
    /// # Errors
    ///
    /// [`EmbeddedIndexError::Listen`] where the listener had failed before.
    pub async fn stop(mut self) -> Result<(), EmbeddedIndexError> {
        self.shutdown.cancel();
        let port = self.address.port();
        let served = match self.server.take() {
            Some(server) => end(server).await,
            None => Ok(()),
        };
        let store = Arc::clone(&self.store);
        if tokio::task::spawn_blocking(move || store.stop(STOP_GRACE)).await.is_err() {
            tracing::error!("the embedded index did not stop cleanly; its log is replayed at the next start");
        }
        served.map_err(|reason| EmbeddedIndexError::Listen { port, reason })
    }
}

impl Drop for EmbeddedIndex {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn serve(
    listener: TcpListener,
    store: Arc<Store>,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let service = Service::new(store);
    let points = PointsServer::new(service.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let collections = CollectionsServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .add_service(QdrantServer::new(service.clone()))
        .add_service(SnapshotsServer::new(service))
        .add_service(collections)
        .add_service(points)
        // The builder's own setting is for listeners that it makes itself; without it answers wait
        // for 40 ms.
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.cancelled_owned(),
        )
        .await
}

/// Waits for the server; clients that keep their connection busy are cut off after the grace.
async fn end(mut server: JoinHandle<Result<(), tonic::transport::Error>>) -> Result<(), String> {
    match tokio::time::timeout(STOP_GRACE, &mut server).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            server.abort();
            Ok(())
        }
    }
}
