//! Counts the records that retention has removed before they were read. A pure type.

use std::collections::BTreeMap;

use crate::consumer::End;
use crate::offsets::TopicPartition;

/// The offsets up to which removed records were counted.
#[derive(Debug, Default)]
pub(super) struct Expired {
    counted: BTreeMap<TopicPartition, i64>,
}

impl Expired {
    /// Returns how many records were removed since the last call: those between the next offset to
    /// read and the first that is kept. A group that never committed starts at the first.
    pub fn note(&mut self, end: &End) -> i64 {
        let Some(next) = end.taken.max(end.committed) else { return 0 };
        let next = self.counted.get(&end.topic_partition).map_or(next, |counted| next.max(*counted));
        if end.start <= next {
            return 0;
        }
        self.counted.insert(end.topic_partition, end.start);
        end.start - next
    }
}

#[cfg(test)]
mod tests {
    use unprompt_schemas::topics::Topic;

    use super::*;

    fn end(start: i64, committed: Option<i64>, taken: Option<i64>) -> End {
        let topic_partition = TopicPartition { topic: Topic::Images, partition: 0 };
        End { topic_partition, start, end: 100, committed, taken, drained: false }
    }

    #[test]
    fn records_removed_before_being_read_are_counted_once() {
        let mut expired = Expired::default();
        assert_eq!(expired.note(&end(10, Some(20), None)), 0);
        assert_eq!(expired.note(&end(25, Some(20), None)), 5);
        assert_eq!(expired.note(&end(25, Some(20), None)), 0);
        assert_eq!(expired.note(&end(40, Some(20), Some(30))), 10);
    }

    #[test]
    fn taken_records_and_a_start_without_a_commit_are_not_counted_as_lost() {
        let mut expired = Expired::default();
        assert_eq!(expired.note(&end(50, None, None)), 0);
        assert_eq!(expired.note(&end(50, Some(20), Some(60))), 0, "taken, and not committed yet");
    }
}
