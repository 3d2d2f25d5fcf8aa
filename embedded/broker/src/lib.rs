//! A Kafka-compatible broker that runs in this process: nisshi's storage and services behind this
//! crate's own accept loop.
//!
//! It listens on 127.0.0.1 only and keeps all data in one SQLite file. It runs on its own threads,
//! because SQLite blocks its caller. The caller must have exclusive use of the data directory:
//! nothing stops two brokers from opening the same file. This crate knows Kafka's protocol; it must
//! not know which topics exist or what a record means.

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
mod wal_sync;
mod watermarks;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use crate::error::EmbeddedBrokerError;

/// The cluster id. The database stores it with every topic, so changing it would hide existing
/// data.
const CLUSTER: &str = "unprompt";
/// The id of the only broker.
const NODE: i32 = 111;
const THREADS: usize = 2;

/// A running broker. Dropping it stops the broker without waiting for it.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    stop: CancellationToken,
    /// Cancelled when the thread ends, however it ends.
    ended: CancellationToken,
    thread: Option<JoinHandle<Result<(), EmbeddedBrokerError>>>,
}

impl EmbeddedBroker {
    /// Starts a broker on 127.0.0.1 with its data in `data_dir`. Port 0 picks a free port.
    ///
    /// # Errors
    ///
    /// [`EmbeddedBrokerError::Listen`] if the port is taken, [`EmbeddedBrokerError::DataDir`] or
    /// [`EmbeddedBrokerError::Storage`] if the data cannot be opened.
    pub async fn start(data_dir: &Path, port: u16) -> Result<Self, EmbeddedBrokerError> {
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (started, ready) = oneshot::channel();
        let thread = spawn(data_dir.to_owned(), port, stop.clone(), started, ended.clone().drop_guard())?;
        match ready.await {
            Ok(address) => Ok(Self { address, stop, ended, thread: Some(thread) }),
            Err(_) => {
                Err(join(thread).await.err().unwrap_or(EmbeddedBrokerError::Ended("ended while it started")))
            }
        }
    }

    /// The address the broker listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address in the form clients expect: `127.0.0.1:port`.
    pub fn brokers(&self) -> String {
        self.address.to_string()
    }

    /// Waits until the broker has ended; [`EmbeddedBroker::stop`] then says why, if nobody stopped
    /// it.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Stops the broker: closes the connections, finishes SQLite's transaction, checkpoints the
    /// write-ahead log into the database file and syncs the file.
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
    ended: DropGuard,
) -> Result<JoinHandle<Result<(), EmbeddedBrokerError>>, EmbeddedBrokerError> {
    let body = move || {
        let _ended = ended;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("broker-worker")
            .enable_all()
            .build()
            .map_err(EmbeddedBrokerError::Thread)?;
        let served = runtime.block_on(serve(&data_dir, port, stop, started));
        // The last connection to close checkpoints the write-ahead log, so all connections must be
        // closed before the sync.
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

/// Binds the port, opens the storage with the bound address and serves until `stop` is cancelled.
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
    // If the caller is gone, it has dropped the broker, which cancels `stop`.
    let _ = started.send(address);
    tracing::info!(%address, data_dir = %data_dir.display(), "embedded broker is up");
    let mut maintenance = tokio::spawn(maintenance::run(storage.clone(), stop.clone()));
    // Maintenance ends at a stop, too; only the connections' end is waited for then.
    let unasked = async {
        let _ = (&mut maintenance).await;
        if stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
    };
    let wal = storage.clone();
    let served = tokio::select! {
        () = connections::accept(listener, storage, &stop) => Ok(()),
        () = unasked => Err(EmbeddedBrokerError::Ended("has ended, because its maintenance panicked")),
        () = wal.sync_failed() => Err(EmbeddedBrokerError::Ended(
            "has ended, because its log could not be synced to the disk",
        )),
    };
    stop.cancel();
    if !maintenance.is_finished() {
        let _ = maintenance.await;
    }
    tracing::info!(%address, "embedded broker is down");
    served
}

#[cfg(test)]
mod tests;
