//! Batches shared among lanes that work at the same time. It knows no network and no engine.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::ModelError;

/// What `work` makes of each of `count` batches, in their order. A lane takes the next batch when it has done one; the first failure
/// ends them all.
pub(crate) fn share<L: Send, T: Send>(
    lanes: &mut [L],
    count: usize,
    work: impl Fn(&mut L, usize) -> Result<T, ModelError> + Sync,
) -> Result<Vec<T>, ModelError> {
    let next = AtomicUsize::new(0);
    let run = |lane: &mut L| {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok::<_, ModelError>(done);
            }
            // One failure fails them all, so the other lanes need not go on.
            done.push((at, work(lane, at).inspect_err(|_| next.store(count, Ordering::Relaxed))?));
        }
    };
    let mut lanes = lanes.iter_mut().take(count);
    let Some(own) = lanes.next() else { return Ok(Vec::new()) };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = lanes.map(|lane| scope.spawn(|| run(lane))).collect();
        let own = run(own);
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        std::iter::once(own).chain(others).collect::<Result<Vec<_>, _>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, made)| made).collect())
}
