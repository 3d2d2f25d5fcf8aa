//! A Kafka-compatible broker in this process: nisshi's storage and services behind our own accept loop.
//!
//! It listens on 127.0.0.1 only and keeps everything in one SQLite file. It runs on threads of its own, because
//! SQLite blocks its caller. The data directory's lock is the caller's ([`crate::data_dir::DataDir`]).

mod connections;
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

use crate::StreamError;

const CLUSTER: &str = "unprompt";
const NODE: i32 = 111;
const THREADS: usize = 2;

/// A running broker. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<(), StreamError>>>,
}

impl EmbeddedBroker {
    /// Starts a broker on 127.0.0.1 with its data in `data_dir`; port 0 takes any free one.
    ///
    /// # Errors
    ///
    /// [`StreamError::Listen`] where the port is taken, [`StreamError::EmbeddedBroker`] where the data cannot
    /// be opened.
    pub async fn start(data_dir: &Path, port: u16) -> Result<Self, StreamError> {
        let stop = CancellationToken::new();
        let (started, ready) = oneshot::channel();
        let thread = spawn(data_dir.to_owned(), port, stop.clone(), started)?;
        match ready.await {
            Ok(address) => Ok(Self { address, stop, thread: Some(thread) }),
            Err(_) => Err(join(thread).await.err().unwrap_or_else(|| failed("it ended while starting"))),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as clients want it, `127.0.0.1:port`.
    pub fn brokers(&self) -> String {
        self.address.to_string()
    }

    /// Stops it: closes the connections, lets the transaction in hand finish, and writes the log back into the
    /// database file, synced.
    pub async fn stop(mut self) -> Result<(), StreamError> {
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
) -> Result<JoinHandle<Result<(), StreamError>>, StreamError> {
    let body = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("broker-worker")
            .enable_all()
            .build()
            .map_err(failed)?;
        let served = runtime.block_on(serve(&data_dir, port, stop, started));
        // The last connection to close checkpoints the write-ahead log, so all must be gone before the sync.
        drop(runtime);
        served?;
        storage::sync(&data_dir)
    };
    std::thread::Builder::new().name("broker".into()).spawn(body).map_err(failed)
}

async fn join(thread: JoinHandle<Result<(), StreamError>>) -> Result<(), StreamError> {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await.map_err(failed)?;
    joined.map_err(|_| failed("its thread panicked"))?
}

/// Binds, opens the storage with the address it got, and serves until told to stop.
async fn serve(
    data_dir: &Path,
    port: u16,
    stop: CancellationToken,
    started: oneshot::Sender<SocketAddr>,
) -> Result<(), StreamError> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener =
        TcpListener::bind(wanted).await.map_err(|source| StreamError::Listen { address: wanted, source })?;
    let address = listener.local_addr().map_err(failed)?;
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

fn failed(error: impl std::fmt::Display) -> StreamError {
    StreamError::EmbeddedBroker(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use nisshi_storage::Storage;
    use unprompt_schemas::topics::Topic;

    use super::*;
    use crate::{KafkaConfig, OutputRecord, Publisher, ensure_topics, read_to_end};

    fn head(name: &str, value: &str) -> OutputRecord {
        let (key, value) = (Some(name.into()), Some(value.into()));
        OutputRecord { topic: Topic::Heads, key, value, headers: vec![("n".into(), name.into())] }
    }

    async fn heads(kafka: &KafkaConfig) -> Vec<(String, String)> {
        let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap()).unwrap();
        let mut heads = Vec::new();
        read_to_end(kafka, &[Topic::Heads], |head| heads.push((text(head.key), text(head.value))))
            .await
            .unwrap();
        heads
    }

    /// The broker, started on `dir`, for the time that `job` takes.
    async fn with_broker<T>(dir: &Path, job: impl AsyncFnOnce(KafkaConfig) -> T) -> T {
        let broker = EmbeddedBroker::start(dir, 0).await.unwrap();
        let done = job(KafkaConfig::embedded(broker.brokers())).await;
        broker.stop().await.unwrap();
        done
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn maintenance_keeps_the_newest_record_of_each_key_and_reading_goes_on_over_the_gaps() {
        let dir = tempfile::TempDir::new().unwrap();
        let written = with_broker(dir.path(), async |kafka| {
            ensure_topics(&kafka).await.unwrap();
            let publisher = Publisher::new(&kafka).unwrap();
            publisher
                .publish_many([head("a", "1"), head("b", "1"), head("a", "2"), head("a", "3")])
                .await
                .unwrap();
            heads(&kafka).await
        });
        assert_eq!(written.await.len(), 4);

        let (storage, _alias) =
            storage::open(dir.path(), "127.0.0.1:1".parse().unwrap(), CancellationToken::new())
                .await
                .unwrap();
        storage.maintain(SystemTime::now()).await.unwrap();
        drop(storage);

        let kept = with_broker(dir.path(), async |kafka| heads(&kafka).await).await;
        assert_eq!(kept, [("b".into(), "1".into()), ("a".into(), "3".into())]);
    }
}
