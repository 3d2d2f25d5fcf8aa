//! Tracks which offsets may be committed: those before which all outputs are
//! acknowledged. A pure type.

use std::collections::{BTreeMap, VecDeque};

use unprompt_schemas::topics::Topic;

use crate::InputRecord;

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicPartition {
    pub topic: Topic,
    pub partition: i32,
}

impl From<&InputRecord> for TopicPartition {
    fn from(record: &InputRecord) -> Self {
        Self { topic: record.topic, partition: record.partition }
    }
}

/// The number of a batch; batches are numbered in the order in which they are made.
pub(crate) type BatchId = u64;

/// A run of one partition's records within a batch.
#[derive(Clone, Copy, Debug)]
struct BatchRun {
    batch: BatchId,
    /// The offset after the last record of the run.
    next: i64,
    done: bool,
}

#[derive(Debug, Default)]
struct PartitionProgress {
    runs: VecDeque<BatchRun>,
    /// Everything before this offset is acknowledged.
    done: Option<i64>,
    /// The offset last handed out for a commit.
    requested: Option<i64>,
}

/// The progress of every assigned partition.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    assigned: BTreeMap<TopicPartition, PartitionProgress>,
}

impl Offsets {
    pub fn assign(&mut self, topic_partitions: &[TopicPartition]) {
        for topic_partition in topic_partitions {
            self.assigned.entry(*topic_partition).or_default();
        }
    }

    pub fn is_assigned(&self, topic_partition: TopicPartition) -> bool {
        self.assigned.contains_key(&topic_partition)
    }

    pub fn topic_partitions(&self) -> Vec<TopicPartition> {
        self.assigned.keys().copied().collect()
    }

    /// Notes that `batch` holds these records, apart from those of unassigned partitions.
    pub fn begin(&mut self, batch: BatchId, records: &[InputRecord]) {
        for record in records {
            let Some(progress) = self.assigned.get_mut(&TopicPartition::from(record)) else { continue };
            let next = record.offset + 1;
            match progress.runs.back_mut() {
                Some(run) if run.batch == batch => run.next = run.next.max(next),
                _ => progress.runs.push_back(BatchRun { batch, next, done: false }),
            }
        }
    }

    /// Gives the first records of `batch` to the batch `first`; `batch` keeps the `rest`.
    pub fn split(&mut self, batch: BatchId, first: BatchId, records: &[InputRecord], rest: &[InputRecord]) {
        let next_of = |topic_partition, records: &[InputRecord]| {
            let own = records.iter().filter(|record| TopicPartition::from(*record) == topic_partition);
            own.map(|record| record.offset + 1).max()
        };
        for (topic_partition, progress) in &mut self.assigned {
            let Some(at) = progress.runs.iter().position(|run| run.batch == batch) else { continue };
            let Some(next) = next_of(*topic_partition, records) else { continue };
            match next_of(*topic_partition, rest) {
                Some(_) => progress.runs.insert(at, BatchRun { batch: first, next, done: false }),
                None => progress.runs[at].batch = first,
            }
        }
    }

    /// Returns whether `batch` still answers for `topic_partition`. It does not once the partition
    /// was revoked, even if the partition came back.
    pub fn holds(&self, batch: BatchId, topic_partition: TopicPartition) -> bool {
        self.assigned
            .get(&topic_partition)
            .is_some_and(|progress| progress.runs.iter().any(|run| run.batch == batch))
    }

    /// Returns the offsets to commit once these batches are done, for partitions in which
    /// they are the oldest.
    pub fn after(&self, batches: &[BatchId]) -> Vec<(TopicPartition, i64)> {
        let next = |progress: &PartitionProgress| {
            let done = |run: &&BatchRun| run.done || batches.contains(&run.batch);
            progress.runs.iter().take_while(done).last().map(|run| run.next)
        };
        self.assigned
            .iter()
            .filter_map(|(topic_partition, progress)| Some((*topic_partition, next(progress)?)))
            .collect()
    }

    /// Returns the offset before which all of `topic_partition` is acknowledged, once it is known.
    pub fn done(&self, topic_partition: TopicPartition) -> Option<i64> {
        self.assigned.get(&topic_partition)?.done
    }

    /// Notes that everything of `batch` is acknowledged.
    pub fn complete(&mut self, batch: BatchId) {
        for progress in self.assigned.values_mut() {
            progress.complete(batch);
        }
    }

    /// Returns whether any of `topic_partitions` has records in flight.
    pub fn in_flight(&self, topic_partitions: &[TopicPartition]) -> bool {
        topic_partitions.iter().any(|topic_partition| {
            self.assigned.get(topic_partition).is_some_and(|progress| !progress.runs.is_empty())
        })
    }

    /// Takes the offsets that have advanced since the last call.
    pub fn take_dirty(&mut self) -> Vec<(TopicPartition, i64)> {
        self.assigned
            .iter_mut()
            .filter_map(|(topic_partition, progress)| Some((*topic_partition, progress.take_dirty()?)))
            .collect()
    }

    pub fn is_dirty(&self) -> bool {
        self.assigned.values().any(PartitionProgress::is_dirty)
    }

    /// Forgets the requested offsets after a failed commit, so that they are committed again.
    pub fn forget_requests(&mut self) {
        for progress in self.assigned.values_mut() {
            progress.requested = None;
        }
    }

    /// Gives the partitions up, and returns their offsets that may still be committed.
    pub fn revoke(&mut self, topic_partitions: &[TopicPartition]) -> Vec<(TopicPartition, i64)> {
        let given_up = topic_partitions
            .iter()
            .filter_map(|topic_partition| Some((*topic_partition, self.assigned.remove(topic_partition)?)));
        given_up
            .filter_map(|(topic_partition, mut progress)| Some((topic_partition, progress.take_dirty()?)))
            .collect()
    }
}

impl PartitionProgress {
    fn complete(&mut self, batch: BatchId) {
        for run in self.runs.iter_mut().filter(|run| run.batch == batch) {
            run.done = true;
        }
        while let Some(run) = self.runs.pop_front_if(|run| run.done) {
            self.done = Some(run.next);
        }
    }

    fn is_dirty(&self) -> bool {
        self.done.is_some() && self.done != self.requested
    }

    fn take_dirty(&mut self) -> Option<i64> {
        let dirty = self.is_dirty();
        self.requested = self.done;
        self.done.filter(|_| dirty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TopicPartition = TopicPartition { topic: Topic::Images, partition: 0 };
    const B: TopicPartition = TopicPartition { topic: Topic::Images, partition: 1 };

    fn records(topic_partition: TopicPartition, offsets: std::ops::Range<i64>) -> Vec<InputRecord> {
        let record = |offset| InputRecord {
            partition: topic_partition.partition,
            offset,
            ..InputRecord::new(topic_partition.topic)
        };
        offsets.map(record).collect()
    }

    fn tracking(topic_partitions: &[TopicPartition]) -> Offsets {
        let mut offsets = Offsets::default();
        offsets.assign(topic_partitions);
        offsets
    }

    #[test]
    fn nothing_is_committed_before_it_is_complete() {
        let mut offsets = tracking(&[A]);
        offsets.begin(1, &records(A, 0..5));
        assert!(offsets.take_dirty().is_empty());
        offsets.complete(1);
        assert_eq!(offsets.take_dirty(), [(A, 5)]);
        assert!(offsets.take_dirty().is_empty(), "an offset is handed out once");
    }

    #[test]
    fn a_later_batch_waits_for_an_earlier_one_of_its_partition() {
        let mut offsets = tracking(&[A, B]);
        offsets.begin(1, &records(A, 0..5));
        offsets.begin(2, &[records(A, 5..8), records(B, 0..2)].concat());
        offsets.complete(2);
        assert_eq!(offsets.take_dirty(), [(B, 2)], "partition B does not wait for partition A");
        offsets.complete(1);
        assert_eq!(offsets.take_dirty(), [(A, 8)]);
    }

    #[test]
    fn a_transaction_commits_offsets_of_the_oldest_batches_only() {
        let mut offsets = tracking(&[A, B]);
        offsets.begin(1, &records(A, 0..5));
        offsets.begin(2, &[records(A, 5..8), records(B, 0..2)].concat());
        offsets.begin(3, &records(B, 2..9));
        assert_eq!(offsets.after(&[1]), [(A, 5)]);
        assert_eq!(offsets.after(&[1, 2]), [(A, 8), (B, 2)]);
        assert!(offsets.after(&[3]).is_empty(), "batch 2 of partition B is not done");
        offsets.revoke(&[A]);
        assert_eq!(offsets.after(&[1, 2]), [(B, 2)]);
    }

    #[test]
    fn a_failed_commit_is_requested_again() {
        let mut offsets = tracking(&[A]);
        offsets.begin(1, &records(A, 0..5));
        offsets.complete(1);
        offsets.take_dirty();
        offsets.forget_requests();
        assert_eq!(offsets.take_dirty(), [(A, 5)]);
    }

    #[test]
    fn the_first_records_of_a_batch_are_committed_before_the_others() {
        let mut offsets = tracking(&[A, B]);
        let (in_a, in_b) = (records(A, 0..4), records(B, 0..2));
        offsets.begin(1, &[in_a.clone(), in_b.clone()].concat());
        offsets.split(1, 2, &in_a[..3], &[&in_a[3..], &in_b[..]].concat());
        assert!(offsets.holds(2, A) && !offsets.holds(2, B) && offsets.holds(1, A));
        assert_eq!(offsets.after(&[2]), [(A, 3)]);
        offsets.complete(2);
        assert_eq!(offsets.take_dirty(), [(A, 3)]);
        offsets.split(1, 3, &in_a[3..], &in_b);
        offsets.complete(3);
        assert_eq!(offsets.take_dirty(), [(A, 4)]);
        offsets.complete(1);
        assert_eq!(offsets.take_dirty(), [(B, 2)]);
    }

    #[test]
    fn a_revoked_partition_returns_its_done_offset_and_forgets_the_rest() {
        let mut offsets = tracking(&[A]);
        offsets.begin(1, &records(A, 0..5));
        offsets.begin(2, &records(A, 5..9));
        offsets.complete(1);
        assert!(offsets.in_flight(&[A]));
        assert_eq!(offsets.revoke(&[A]), [(A, 5)]);
        offsets.complete(2);
        assert!(offsets.take_dirty().is_empty());
    }

    #[test]
    fn a_batch_from_before_a_revocation_does_not_count_after_it() {
        let mut offsets = tracking(&[A]);
        offsets.begin(1, &records(A, 0..5));
        offsets.revoke(&[A]);
        offsets.assign(&[A]);
        assert!(!offsets.holds(1, A));
        offsets.complete(1);
        assert!(offsets.take_dirty().is_empty());
        offsets.begin(2, &records(A, 0..3));
        assert!(offsets.holds(2, A));
    }
}
