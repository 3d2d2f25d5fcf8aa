//! A Kafka-compatible broker in this process: nisshi's storage and services behind our own accept
//! loop.
//!
//! It listens on 127.0.0.1 only and keeps everything in one SQLite file. It runs on threads of its
//! own, because SQLite blocks its caller. The caller must hold the data directory for itself: two
//! brokers on one file are not kept apart. This crate knows Kafka's protocol; it must not know
//! which topics there are, or what a record means.

mod connections;
mod error;
mod groups;
mod log_reader;
mod long_poll;
mod maintenance;
mod plain_versions;
mod quick_storage;
mod routes;
mod storage;
mod watermarks;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use crate::error::EmbeddedBrokerError;

/// The cluster's id. The database keeps it with every topic, so that another id would hide the
/// data.
const CLUSTER: &str = "unprompt";
/// The id of the only broker.
const NODE: i32 = 111;
const THREADS: usize = 2;

/// A running broker. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<(), EmbeddedBrokerError>>>,
}

impl EmbeddedBroker {
    /// Starts a broker on 127.0.0.1 with its data in `data_dir`; port 0 takes any free one.
    ///
    /// # Errors
    ///
    /// [`EmbeddedBrokerError::Listen`] for a port that is taken, [`EmbeddedBrokerError::DataDir`]
    /// and [`EmbeddedBrokerError::Storage`] for data that cannot be opened.
    pub async fn start(data_dir: &Path, port: u16) -> Result<Self, EmbeddedBrokerError> {
        let stop = CancellationToken::new();
        let (started, ready) = oneshot::channel();
        let thread = spawn(data_dir.to_owned(), port, stop.clone(), started)?;
        match ready.await {
            Ok(address) => Ok(Self { address, stop, thread: Some(thread) }),
            Err(_) => {
                Err(join(thread).await.err().unwrap_or(EmbeddedBrokerError::Ended("ended while it started")))
            }
        }
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as clients take it, `127.0.0.1:port`.
    pub fn brokers(&self) -> String {
        self.address.to_string()
    }

    /// Stops it: closes the connections, finishes SQLite's transaction, writes the log back into
    /// the database file and syncs the file.
    pub async fn stop(mut self) -> Result<(), EmbeddedBrokerError> {
        self.stop.cancel();
        match self.thread.take() {
            Some(thread) => join(thread).await,
            None => Ok(()),
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn spawn(
    data_dir: std::path::PathBuf,
    port: u16,
    stop: CancellationToken,
    started: oneshot::Sender<SocketAddr>,
) -> Result<JoinHandle<Result<(), EmbeddedBrokerError>>, EmbeddedBrokerError> {
    let body = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("broker-worker")
            .enable_all()
            .build()
            .map_err(EmbeddedBrokerError::Thread)?;
        let served = runtime.block_on(serve(&data_dir, port, stop, started));
        // The last connection to close checkpoints the write-ahead log, so all must be gone before
        // the sync.
        drop(runtime);
        served?;
        storage::sync(&data_dir)
    };
    std::thread::Builder::new().name("broker".into()).spawn(body).map_err(EmbeddedBrokerError::Thread)
}

async fn join(thread: JoinHandle<Result<(), EmbeddedBrokerError>>) -> Result<(), EmbeddedBrokerError> {
    let panicked = EmbeddedBrokerError::Ended("ended by a panic");
    match tokio::task::spawn_blocking(move || thread.join()).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(_)) | Err(_) => Err(panicked),
    }
}

/// Binds, opens the storage with the address it got, and serves until told to stop.
async fn serve(
    data_dir: &Path,
    port: u16,
    stop: CancellationToken,
    started: oneshot::Sender<SocketAddr>,
) -> Result<(), EmbeddedBrokerError> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listen = |source| EmbeddedBrokerError::Listen { address: wanted, source };
    let listener = TcpListener::bind(wanted).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let was_killed = storage::was_killed(data_dir);
    let (storage, _alias) = storage::open(data_dir, address, stop.clone()).await?;
    if was_killed {
        groups::forget_members(&storage).await?;
    }
    // A caller that is gone has dropped the broker, which cancels `stop`.
    let _ = started.send(address);
    tracing::info!(%address, data_dir = %data_dir.display(), "embedded broker is up");
    let maintenance = tokio::spawn(maintenance::run(storage.clone(), stop.clone()));
    connections::accept(listener, storage, &stop).await;
    let _ = maintenance.await;
    tracing::info!(%address, "embedded broker is down");
    Ok(())
}

#[cfg(test)]
mod tests;
