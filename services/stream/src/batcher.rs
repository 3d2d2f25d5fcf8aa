//! Collects records into batches by count, bytes and time. A pure type: the clock is handed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::InputRecord;

/// The limits of a batch: it is due when one of them is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub records: usize,
    pub bytes: usize,
    pub time: Duration,
}

/// Records waiting for their batch, oldest first.
#[derive(Debug)]
pub(crate) struct Batcher {
    limits: Limits,
    waiting: VecDeque<(Instant, InputRecord)>,
    bytes: usize,
}

impl Batcher {
    pub fn new(limits: Limits) -> Self {
        Self { limits, waiting: VecDeque::new(), bytes: 0 }
    }

    pub fn push(&mut self, record: InputRecord, now: Instant) {
        self.bytes += record.size_bytes();
        self.waiting.push_back((now, record));
    }

    /// Returns whether the waiting records fill a batch.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= self.limits.records || self.bytes >= self.limits.bytes
    }

    /// Returns when the oldest record has waited long enough.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|(arrived, _)| *arrived + self.limits.time)
    }

    /// Returns whether a batch should be taken now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_full() || self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Takes the oldest records within the limits; at least one, however large, if any waits.
    pub fn take(&mut self) -> Vec<InputRecord> {
        let mut batch = Vec::with_capacity(self.waiting.len().min(self.limits.records));
        let mut bytes = 0;
        while let Some((_, record)) = self.waiting.front() {
            let size = record.size_bytes();
            let over = bytes + size > self.limits.bytes || batch.len() >= self.limits.records;
            if over && !batch.is_empty() {
                break;
            }
            bytes += size;
            batch.extend(self.waiting.pop_front().map(|(_, record)| record));
        }
        self.bytes -= bytes;
        batch
    }

    /// Drops the records that `keep` refuses, and returns them.
    pub fn drop_unless(&mut self, keep: impl Fn(&InputRecord) -> bool) -> Vec<InputRecord> {
        let (kept, dropped): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, record)| keep(record));
        self.waiting = kept;
        self.bytes = self.waiting.iter().map(|(_, record)| record.size_bytes()).sum();
        dropped.into_iter().map(|(_, record)| record).collect()
    }
}

#[cfg(test)]
mod tests {
    use unprompt_schemas::topics::Topic;

    use super::*;

    fn record(offset: i64, bytes: usize) -> InputRecord {
        InputRecord { offset, value: Some(vec![0; bytes]), ..InputRecord::new(Topic::Prompts) }
    }

    fn batcher() -> Batcher {
        Batcher::new(Limits { records: 3, bytes: 100, time: Duration::from_millis(10) })
    }

    fn offsets(batch: &[InputRecord]) -> Vec<i64> {
        batch.iter().map(|record| record.offset).collect()
    }

    #[test]
    fn a_batch_is_due_by_count() {
        let (mut batcher, now) = (batcher(), Instant::now());
        batcher.push(record(0, 1), now);
        batcher.push(record(1, 1), now);
        assert!(!batcher.is_due(now));
        batcher.push(record(2, 1), now);
        assert!(batcher.is_due(now));
    }

    #[test]
    fn a_batch_is_due_by_bytes_and_stays_within_the_limit() {
        let (mut batcher, now) = (batcher(), Instant::now());
        batcher.push(record(0, 60), now);
        assert!(!batcher.is_due(now));
        batcher.push(record(1, 60), now);
        assert!(batcher.is_due(now));
        assert_eq!(offsets(&batcher.take()), [0]);
        assert_eq!(offsets(&batcher.take()), [1]);
    }

    #[test]
    fn a_batch_is_due_when_its_oldest_record_has_waited() {
        let (mut batcher, start) = (batcher(), Instant::now());
        batcher.push(record(0, 1), start);
        batcher.push(record(1, 1), start + Duration::from_millis(9));
        assert!(!batcher.is_due(start + Duration::from_millis(9)));
        assert!(batcher.is_due(start + Duration::from_millis(10)));
    }

    #[test]
    fn a_record_larger_than_a_batch_goes_alone() {
        let (mut batcher, now) = (batcher(), Instant::now());
        batcher.push(record(0, 500), now);
        batcher.push(record(1, 1), now);
        assert_eq!(offsets(&batcher.take()), [0]);
        assert_eq!(offsets(&batcher.take()), [1]);
        assert!(batcher.deadline().is_none(), "nothing waits any more");
        assert_eq!(batcher.bytes, 0);
    }

    #[test]
    fn dropped_records_no_longer_count() {
        let (mut batcher, now) = (batcher(), Instant::now());
        for offset in 0..4 {
            batcher.push(record(offset, 40), now);
        }
        let dropped = batcher.drop_unless(|record| record.offset % 2 == 0);
        assert_eq!(offsets(&dropped), [1, 3]);
        assert_eq!(batcher.bytes, 80);
        assert!(!batcher.is_full());
        assert_eq!(offsets(&batcher.take()), [0, 2]);
    }
}
