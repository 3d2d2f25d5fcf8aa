//! The only thread that writes to a shard. It drains its queue, applies the jobs, flushes once and
//! then answers all callers.
//!
//! Edge writes an update to its log without syncing it; `flush` syncs the log and the segments and
//! allows the log to be truncated. Because callers are answered after the flush, an acknowledged
//! write survives a kill and a power cut. One flush per group makes many small writers as fast as a
//! large one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use qdrant_edge::{EdgeShard, UpdateOperation};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::marks;
use super::optimiser::Optimiser;
use super::queue::{CAPACITY, Flush, Job};
use crate::faults::Faults;
use crate::synced_files::SyncedFiles;
use crate::{disk_space, status};

/// Maximum number of requests between two flushes.
const GROUP: usize = 64;

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub operation_id: u64,
    /// True if the write is durable, rather than only accepted.
    pub completed: bool,
}

#[derive(Debug)]
pub(super) struct ShardWriter {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    operations: AtomicU64,
}

impl ShardWriter {
    pub fn start(
        name: &str,
        edge: Arc<EdgeShard>,
        optimiser: Arc<Optimiser>,
        faults: &Faults,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let what = format!("the thread that writes to {name}");
        let thread = faults.spawn(format!("write {name}"), what, move || run(receiver, &edge, &optimiser))?;
        Ok(Self {
            queue: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            operations: AtomicU64::new(0),
        })
    }

    /// A handle with which other threads request a flush.
    pub fn flusher(&self) -> Option<Flush> {
        self.queue.lock().as_ref().map(Flush::of)
    }

    pub async fn write(&self, operations: Vec<UpdateOperation>, wait: bool) -> Result<Written, Status> {
        let queue = self.queue.lock().clone().ok_or_else(status::stopped)?;
        let operation_id = self.operations.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        let job = Job { operations, done: wait.then_some(done) };
        queue.send(job).await.map_err(|_| died())?;
        if wait {
            answer.await.map_err(|_| died())??;
        }
        Ok(Written { operation_id, completed: wait })
    }

    /// Applies and flushes the accepted writes, then ends the thread.
    pub fn stop(&self) {
        drop(self.queue.lock().take());
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the index's writing thread had ended with a panic");
        }
    }
}

fn died() -> Status {
    Status::unavailable("the index's writing thread has ended; restart to replay its log")
}

fn run(mut queue: mpsc::Receiver<Job>, edge: &EdgeShard, optimiser: &Optimiser) {
    let mut files = SyncedFiles::default();
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let wrote = group.iter().any(|job| !job.operations.is_empty());
        write_group(group, edge, &mut files);
        if wrote {
            optimiser.wrote();
        }
    }
}

fn write_group(group: Vec<Job>, edge: &EdgeShard, files: &mut SyncedFiles) {
    let write = |operations| disk_space::check(edge.path()).and_then(|()| apply(operations, edge));
    let applied: Vec<_> = group.into_iter().map(|job| (write(job.operations), job.done)).collect();
    let flushed = flush(edge, files);
    if let Err(error) = &flushed {
        tracing::error!(%error, "the index could not be flushed; these writes are not acknowledged");
    }
    for (result, done) in applied {
        let result = result.and(flushed.clone());
        match (done, result) {
            // Ignores a failed send: that caller is gone.
            (Some(done), result) => drop(done.send(result)),
            (None, Err(error)) => tracing::warn!(%error, "a write that nobody waits for failed"),
            (None, Ok(())) => {}
        }
    }
}

fn flush(edge: &EdgeShard, files: &mut SyncedFiles) -> Result<(), Status> {
    let refused = |error| Status::internal(format!("new files cannot be synced: {error}"));
    marks::sync_unmarked(files, edge.path()).map_err(refused)?;
    edge.flush().map_err(status::of_edge)?;
    marks::sync(files, edge.path()).map_err(refused)
}

/// Applies operations up to the first failure. Earlier operations of the request stay applied, as
/// on a Qdrant server.
fn apply(operations: Vec<UpdateOperation>, edge: &EdgeShard) -> Result<(), Status> {
    operations.into_iter().try_for_each(|operation| edge.update(operation)).map_err(status::of_edge)
}
