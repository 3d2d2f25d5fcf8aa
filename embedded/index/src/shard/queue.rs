//! The queue of a shard's writing thread: the jobs in it, and [`Flush`] for threads that must not
//! flush themselves.

use qdrant_edge::UpdateOperation;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Requests that wait for the thread; further ones wait in their callers.
pub(super) const CAPACITY: usize = 64;

/// Operations to apply in their order, and who waits until they are durable.
#[derive(Debug)]
pub(super) struct Job {
    pub operations: Vec<UpdateOperation>,
    pub done: Option<oneshot::Sender<Result<(), Status>>>,
}

/// Asks the writing thread to flush the shard. It does not keep the thread alive.
#[derive(Debug, Clone)]
pub(super) struct Flush(mpsc::WeakSender<Job>);

impl Flush {
    pub fn of(queue: &mpsc::Sender<Job>) -> Self {
        Self(queue.downgrade())
    }

    /// Flushes and waits for it. Does nothing where the thread has ended. Blocks.
    pub fn flush(&self) {
        let Some(queue) = self.0.upgrade() else { return };
        let (done, flushed) = oneshot::channel();
        let job = Job { operations: Vec::new(), done: Some(done) };
        if queue.blocking_send(job).is_ok() {
            drop(queue);
            // The thread has logged an error.
            let _ = flushed.blocking_recv();
        }
    }
}
