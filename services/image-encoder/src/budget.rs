//! A memory budget for decoding, shared by all decoding threads.

use parking_lot::{Condvar, Mutex};

/// A number of bytes to share. A holder never takes more while it holds some, so every wait ends.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    left: Mutex<u64>,
    given_back: Condvar,
}

/// Bytes taken from the budget until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Taken<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub fn new(total: u64) -> Self {
        Self { total, left: Mutex::new(total), given_back: Condvar::new() }
    }

    /// Takes `bytes`, waiting until that many are free. A request above the total takes the total.
    pub fn take(&self, bytes: u64) -> Taken<'_> {
        let bytes = bytes.min(self.total);
        let mut left = self.left.lock();
        self.given_back.wait_while(&mut left, |left| *left < bytes);
        *left -= bytes;
        Taken { budget: self, bytes }
    }

    /// Returns whether a thread is waiting. Waking the threads to find out is harmless: they wait
    /// again.
    #[cfg(test)]
    pub fn is_waited_for(&self) -> bool {
        self.given_back.notify_all() > 0
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.budget.left.lock() += self.bytes;
        self.budget.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const THREADS: usize = 16;

    #[test]
    fn exactly_as_many_threads_as_fit_hold_the_budget_at_once() {
        let (budget, under_way, most) = (Budget::new(100), AtomicUsize::new(0), AtomicUsize::new(0));
        // Two must hold memory before either continues: with fewer at once the test would hang.
        // Both stay until all threads have asked: more at once would be counted.
        let (both, arrived) = (Barrier::new(2), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    let _taken = budget.take(50);
                    most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    both.wait();
                    while arrived.load(Ordering::SeqCst) < THREADS {
                        thread::yield_now();
                    }
                    under_way.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), 2);
        assert_eq!(budget.left.into_inner(), 100, "all is given back");
    }

    #[test]
    fn a_request_above_the_total_gets_the_whole_budget() {
        let budget = Budget::new(100);
        let taken = budget.take(u64::MAX);
        assert_eq!(*budget.left.lock(), 0);
        drop(taken);
        assert_eq!(*budget.left.lock(), 100);
    }
}
