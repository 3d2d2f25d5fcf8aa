//! An in-memory cache of partition ends, and a signal when a partition grows. It stays correct
//! because this process is the only writer.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;

use nisshi_storage::Topition;
use tokio::sync::watch;

/// The end of a partition.
#[derive(Clone, Copy, Debug)]
struct End {
    high: i64,
    /// There are no records from here to `high`, because retention deleted them.
    empty_from: i64,
}

#[derive(Debug)]
pub(crate) struct Watermarks {
    ends: Mutex<HashMap<Topition, End>>,
    grown: watch::Sender<u64>,
}

impl Watermarks {
    pub fn new() -> Self {
        Self { ends: Mutex::default(), grown: watch::Sender::new(0) }
    }

    /// Returns a receiver that is notified of every growth from now on.
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    /// Returns whether there is a record at or after `offset`; None if the partition is not cached
    /// yet.
    pub fn has(&self, topition: &Topition, offset: i64) -> Option<bool> {
        self.ends().get(topition).map(|end| offset < end.high && offset < end.empty_from)
    }

    /// Caches the end of a partition.
    pub fn know(&self, topition: &Topition, high: i64) {
        self.ends().entry(topition.clone()).or_insert(End { high, empty_from: i64::MAX });
    }

    /// Notes a write up to `high`.
    pub fn grow(&self, topition: &Topition, high: i64) {
        {
            let mut ends = self.ends();
            let end = ends.entry(topition.clone()).or_insert(End { high, empty_from: i64::MAX });
            if end.high < high {
                *end = End { high, empty_from: i64::MAX };
            }
        }
        self.grown.send_modify(|count| *count += 1);
    }

    /// Notes that there are no records from `offset` to the end.
    pub fn found_empty(&self, topition: &Topition, offset: i64, high: i64) {
        if let Some(end) = self.ends().get_mut(topition).filter(|end| end.high == high) {
            end.empty_from = end.empty_from.min(offset);
        }
    }

    /// Clears the cache, because a topic was created or deleted.
    pub fn forget(&self) {
        self.ends().clear();
        self.grown.send_modify(|count| *count += 1);
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<Topition, End>> {
        self.ends.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_offsets_below_the_end_are_readable() {
        let (marks, orders) = (Watermarks::new(), Topition::new("orders", 0));
        assert_eq!(marks.has(&orders, 0), None, "nothing is known yet");
        marks.know(&orders, 0);
        assert_eq!(marks.has(&orders, 0), Some(false));
        let mut bell = marks.listen();
        marks.grow(&orders, 5);
        assert!(bell.has_changed().unwrap());
        bell.mark_unchanged();
        assert_eq!((marks.has(&orders, 4), marks.has(&orders, 5)), (Some(true), Some(false)));
        marks.grow(&orders, 3);
        assert_eq!(marks.has(&orders, 4), Some(true), "a repeated batch does not shrink the partition");
    }

    #[test]
    fn offsets_emptied_by_retention_are_unreadable_until_the_partition_grows() {
        let (marks, orders) = (Watermarks::new(), Topition::new("orders", 0));
        marks.grow(&orders, 5);
        marks.found_empty(&orders, 2, 5);
        assert_eq!((marks.has(&orders, 1), marks.has(&orders, 2)), (Some(true), Some(false)));
        marks.grow(&orders, 6);
        assert_eq!(marks.has(&orders, 2), Some(true));
    }
}
