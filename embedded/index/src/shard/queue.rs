//! The queue of a shard's writer thread: its jobs, and [`Flush`] for other threads, which must not
//! flush themselves.

use qdrant_edge::UpdateOperation;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// The queue's capacity in requests. Further requests wait in their callers.
pub(super) const CAPACITY: usize = 64;

/// Operations to apply in order, and the caller that waits until they are durable.
#[derive(Debug)]
pub(super) struct Job {
    pub operations: Vec<UpdateOperation>,
    pub done: Option<oneshot::Sender<Result<(), Status>>>,
}

/// A handle that asks the writer thread to flush the shard. It does not keep the thread alive.
#[derive(Debug, Clone)]
pub(super) struct Flush(mpsc::WeakSender<Job>);

impl Flush {
    pub fn of(queue: &mpsc::Sender<Job>) -> Self {
        Self(queue.downgrade())
    }

    /// Flushes the shard. Blocks until that is done. Does nothing if the thread has ended.
    pub fn flush(&self) {
        let Some(queue) = self.0.upgrade() else { return };
        let (done, flushed) = oneshot::channel();
        let job = Job { operations: Vec::new(), done: Some(done) };
        if queue.blocking_send(job).is_ok() {
            drop(queue);
            // The thread has already logged any error.
            let _ = flushed.blocking_recv();
        }
    }
}
