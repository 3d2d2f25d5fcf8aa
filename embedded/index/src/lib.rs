//! Qdrant's gRPC API over qdrant-edge in this process, for a machine without a Qdrant server.
//!
//! Any Qdrant client can connect to it. It binds 127.0.0.1 only and has no API keys. A write
//! acknowledged with wait=true survives a kill at any moment. Unsupported methods return
//! UNIMPLEMENTED and name the method; the crate's README lists the supported ones. This crate knows
//! collections, points and Qdrant's messages; it must not know prompts.

mod convert;
mod disk_space;
mod error;
mod faults;
mod service;
mod shard;
mod status;
mod store;
mod synced_files;

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

use self::faults::Faults;
use self::service::Service;
use self::store::CollectionStore;
pub use crate::error::EmbeddedIndexError;

/// The message size limit in both directions. tonic's default of 4 MiB would refuse a thousand
/// points.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// The time that a stop waits for requests in progress, and then again for an optimisation.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The running endpoint. It serves until [`EmbeddedIndex::stop`]; if it is only dropped, it stops
/// in the background.
#[derive(Debug)]
pub struct EmbeddedIndex {
    address: SocketAddr,
    shutdown: CancellationToken,
    server: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    store: Arc<CollectionStore>,
    faults: Faults,
}

impl EmbeddedIndex {
    /// Opens the collections in `data_dir` and serves them on 127.0.0.1 at `port`. Port 0 picks a
    /// free port; [`EmbeddedIndex::address`] returns it. Creates the folder if it is missing and
    /// locks it for this process. The endpoint accepts requests when this function returns.
    ///
    /// # Errors
    ///
    /// [`EmbeddedIndexError::Folder`] if the folder is in use or holds other files,
    /// [`EmbeddedIndexError::Damaged`] if its files are damaged, [`EmbeddedIndexError::Listen`] if
    /// the port is taken.
    pub async fn start(data_dir: &Path, port: u16) -> Result<Self, EmbeddedIndexError> {
        // Binds first: opening may take a while, and a taken port is detected at once.
        let listen = |error: std::io::Error| EmbeddedIndexError::Listen { port, reason: error.to_string() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let path = data_dir.to_owned();
        let faults = Faults::default();
        let watched = faults.clone();
        let opened = tokio::task::spawn_blocking(move || CollectionStore::open(&path, watched)).await;
        let panicked = |error| EmbeddedIndexError::damaged(data_dir, format!("opening it failed: {error}"));
        let store = Arc::new(opened.map_err(panicked)??);
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(watched_serve(listener, Arc::clone(&store), shutdown.clone(), faults.clone()));
        tracing::info!(%address, folder = %data_dir.display(), "embedded index serves qdrant's grpc");
        Ok(Self { address, shutdown, server: Some(server), store, faults })
    }

    /// The address the endpoint listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address in the form clients expect: `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the endpoint no longer works although nobody has stopped it, and returns why.
    pub async fn failed(&self) -> String {
        self.faults.noticed().await
    }

    /// Ends requests, flushes all collections and releases the folder. It waits a few seconds for
    /// an optimisation in progress. Killing the process during that wait is safe: the next start
    /// finds the state before the optimisation.
    ///
    /// # Errors
    ///
    /// [`EmbeddedIndexError::Listen`] if the listener failed earlier.
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

/// Serves, and reports an end that `shutdown` did not ask for.
async fn watched_serve(
    listener: TcpListener,
    store: Arc<CollectionStore>,
    shutdown: CancellationToken,
    faults: Faults,
) -> Result<(), tonic::transport::Error> {
    let watched = faults.watch("the server of the embedded index".to_owned());
    let served = serve(listener, store, shutdown.clone()).await;
    if shutdown.is_cancelled() {
        watched.ends();
    }
    served
}

async fn serve(
    listener: TcpListener,
    store: Arc<CollectionStore>,
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
        // The builder's own nodelay setting only applies to listeners that it creates. Without
        // nodelay, responses are delayed by 40 ms.
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.cancelled_owned(),
        )
        .await
}

/// Waits for the server to end. Clients that keep their connection busy are cut off after the grace
/// period.
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
