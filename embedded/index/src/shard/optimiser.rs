//! The optimiser thread, which builds graphs, merges segments and drops deleted points while reads
//! and writes continue.
//!
//! Edge's `optimize` blocks its caller until all work is done and cannot be cancelled, but it holds
//! the locks that updates need only briefly (it wraps the segments that it rebuilds and sends new
//! points to a fresh one). So it runs on its own thread. It starts when writing pauses or, under
//! steady writing, when enough points are unindexed for long enough.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use qdrant_edge::{EdgeShard, ShardInfo};

use super::marks;
use super::queue::Flush;
use crate::faults::Faults;
use crate::synced_files::SyncedFiles;

/// An optimisation starts after a pause in writing of this length.
const PAUSE: Duration = Duration::from_millis(500);
/// Without a pause, an optimisation starts this long after the first write that is not optimised
/// yet, if it is worthwhile ([`WORTHWHILE_PART`]).
const PATIENCE: Duration = Duration::from_secs(10);
/// Under steady writing, an optimisation is worthwhile if the unindexed data reaches the indexing
/// threshold and 1/20 of the indexed data. A large graph is not rebuilt for a few points.
const WORTHWHILE_PART: usize = 20;
/// The delay between an error and the next attempt.
const AFTER_ERROR: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Optimiser {
    state: Mutex<OptimiserState>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    dim: usize,
    edge: Weak<EdgeShard>,
    /// The handle that flushes the shard, and the shard's folder.
    flush: OnceLock<(Flush, PathBuf)>,
}

#[derive(Debug)]
struct OptimiserState {
    /// True if there were writes since the last optimisation began.
    dirty: bool,
    running: bool,
    /// The settings have changed and a caller may wait for the result: an optimisation starts at
    /// once, and the state is busy until it is done.
    asked: bool,
    stopping: bool,
    dirty_since: Instant,
    last_write: Instant,
    not_before: Instant,
    error: Option<String>,
}

impl Optimiser {
    pub fn start(name: &str, edge: &Arc<EdgeShard>, dim: usize, faults: &Faults) -> io::Result<Arc<Self>> {
        let now = Instant::now();
        // Starts dirty, to finish the work that an earlier run left.
        let state = OptimiserState {
            dirty: true,
            running: false,
            asked: false,
            stopping: false,
            dirty_since: now,
            last_write: now,
            not_before: now,
            error: None,
        };
        let optimiser = Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            thread: Mutex::new(None),
            dim,
            edge: Arc::downgrade(edge),
            flush: OnceLock::new(),
        });
        let own = Arc::clone(&optimiser);
        let what = format!("the thread that optimises {name}");
        let thread = faults.spawn(format!("optimise {name}"), what, move || own.run())?;
        *optimiser.thread.lock() = Some(thread);
        Ok(optimiser)
    }

    /// Sets the handle that flushes the shard, whose folder is `at`, after an optimisation.
    pub fn flush_with(&self, flush: Flush, at: &Path) {
        // This is set only once, when the shard starts.
        let _ = self.flush.set((flush, at.to_owned()));
    }

    /// Notes a write.
    pub fn wrote(&self) {
        let mut state = self.state.lock();
        state.last_write = Instant::now();
        if !std::mem::replace(&mut state.dirty, true) {
            state.dirty_since = state.last_write;
            self.changed.notify_all();
        }
    }

    /// Requests an optimisation at once, because the settings have changed. The state is busy until
    /// it is done.
    pub fn ask(&self) {
        {
            let mut state = self.state.lock();
            state.error = None;
            state.not_before = Instant::now();
            state.asked = true;
        }
        self.wrote();
        self.changed.notify_all();
    }

    /// Returns whether an optimisation is running or due, and the error of the last one if it
    /// failed.
    pub fn state(&self, info: &ShardInfo) -> (bool, Option<String>) {
        let (dirty, busy, error) = {
            let state = self.state.lock();
            (state.dirty, state.running || state.asked, state.error.clone())
        };
        let due =
            dirty && self.edge.upgrade().is_some_and(|edge| self.waiting_kb(info) >= threshold_kb(&edge));
        (busy || due, error)
    }

    /// Ends the thread. Waits for a running optimisation until `end`; None waits without a limit.
    pub fn stop(&self, end: Option<Instant>) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else { return };
        while !thread.is_finished() && end.is_none_or(|end| Instant::now() < end) {
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::error!("the index's optimising thread had ended with a panic");
        }
    }

    fn run(&self) {
        while self.wait_until_due() {
            let Some(edge) = self.edge.upgrade() else { return };
            let began = Instant::now();
            let outcome = edge.optimize();
            if let (Ok(true), Some((flush, at))) = (&outcome, self.flush.get()) {
                if let Err(error) = marks::sync(&mut SyncedFiles::default(), at) {
                    tracing::error!(%error, "the optimised index cannot be synced; check that its disk is sound");
                }
                // The first flush writes the new segments to disk; at the second, edge removes the
                // segments that they replace.
                (0..2).for_each(|_| flush.flush());
            }
            let mut state = self.state.lock();
            state.running = false;
            state.error = outcome.as_ref().err().map(ToString::to_string);
            drop(state);
            match outcome {
                Ok(true) => {
                    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::debug!(duration_ms = ms, "optimised the index");
                }
                Ok(false) => {}
                Err(error) => self.failed(&error.to_string()),
            }
        }
    }

    fn failed(&self, error: &str) {
        tracing::warn!(%error, "the index could not be optimised; searches stay right but get slower");
        let mut state = self.state.lock();
        state.dirty = true;
        state.not_before = Instant::now() + AFTER_ERROR;
    }

    /// Waits for work and marks it as started. Returns false when the thread must end.
    fn wait_until_due(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return false;
            }
            if !state.dirty {
                self.changed.wait(&mut state);
                continue;
            }
            let now = Instant::now();
            let paused = now.duration_since(state.last_write) >= PAUSE;
            let late = now.duration_since(state.dirty_since) >= PATIENCE;
            let due =
                now >= state.not_before && (paused || state.asked || late && self.worthwhile(&mut state));
            // `worthwhile` released the lock.
            if state.stopping {
                return false;
            }
            if due {
                state.dirty = false;
                state.asked = false;
                state.running = true;
                return true;
            }
            self.changed.wait_for(&mut state, PAUSE / 4);
        }
    }

    /// Returns whether enough points are unindexed. Queries the shard without holding the lock that
    /// writers take.
    fn worthwhile(&self, state: &mut MutexGuard<'_, OptimiserState>) -> bool {
        MutexGuard::unlocked(state, || {
            let Some(edge) = self.edge.upgrade() else { return false };
            let Ok(info) = edge.info() else { return false };
            let waiting_kb = self.waiting_kb(&info);
            let indexed_kb = self.kb(info.points_count).saturating_sub(waiting_kb);
            waiting_kb >= threshold_kb(&edge).max(indexed_kb / WORTHWHILE_PART)
        })
    }

    /// The size of the unindexed points in KB, counting only the longest vector of each.
    fn waiting_kb(&self, info: &ShardInfo) -> usize {
        let vectors = self.edge.upgrade().map_or(1, |edge| edge.config().vectors.len().max(1));
        self.kb(info.points_count.saturating_sub(info.indexed_vectors_count / vectors))
    }

    fn kb(&self, points: usize) -> usize {
        points.saturating_mul(self.dim * size_of::<f32>()) / 1024
    }
}

fn threshold_kb(edge: &EdgeShard) -> usize {
    edge.config().optimizers().get_indexing_threshold_kb()
}
