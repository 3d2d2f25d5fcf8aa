//! Runs batches on several workers at the same time. It must not know networks or engines.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::ModelError;

/// Returns the result of `run_batch` for each of `count` batches, in order. A worker takes the next
/// batch when it has finished one. The first failure stops all workers.
pub(crate) fn share<W: Send, T: Send>(
    workers: &mut [W],
    count: usize,
    run_batch: impl Fn(&mut W, usize) -> Result<T, ModelError> + Sync,
) -> Result<Vec<T>, ModelError> {
    let next = AtomicUsize::new(0);
    let run = |worker: &mut W| {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok::<_, ModelError>(done);
            }
            // A failure fails the whole call, so the other workers stop too.
            done.push((at, run_batch(worker, at).inspect_err(|_| next.store(count, Ordering::Relaxed))?));
        }
    };
    let mut workers = workers.iter_mut().take(count);
    let Some(own) = workers.next() else { return Ok(Vec::new()) };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = workers.map(|worker| scope.spawn(|| run(worker))).collect();
        let own = run(own);
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        std::iter::once(own).chain(others).collect::<Result<Vec<_>, _>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
