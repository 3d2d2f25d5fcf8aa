//! The offsets below which assigned partitions must not start. A pure type.
//!
//! librdkafka forgets that a partition has a committed offset if the assignment changes while a
//! transaction keeps that offset back (UNSTABLE_OFFSET_COMMIT, `rdkafka_assignment.c`): it then
//! starts where `auto.offset.reset` says, and everything would be processed again. The offset that
//! was committed before such a transaction is a lower bound, which the first record tells apart.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::offsets::TopicPartition;

/// The bounds of the assigned partitions whose first record has not arrived. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Floors(Arc<Mutex<HashMap<TopicPartition, i64>>>);

impl Floors {
    /// Sets the bound of a partition that was just assigned; `None` if it may start anywhere.
    pub fn set(&self, at: TopicPartition, floor: Option<i64>) {
        let mut floors = self.0.lock();
        match floor {
            Some(floor) => floors.insert(at, floor),
            None => floors.remove(&at),
        };
    }

    /// Returns the bound if the record is below it. The first record that is not below it ends the
    /// check of its partition, which has started correctly.
    pub fn above(&self, at: TopicPartition, offset: i64) -> Option<i64> {
        let mut floors = self.0.lock();
        let floor = *floors.get(&at)?;
        if offset < floor {
            return Some(floor);
        }
        floors.remove(&at);
        None
    }
}

#[cfg(test)]
mod tests {
    use unprompt_schemas::topics::Topic;

    use super::*;

    #[test]
    fn a_start_below_the_committed_offset_is_detected_until_the_first_valid_record() {
        let (floors, at) = (Floors::default(), TopicPartition { topic: Topic::Images, partition: 2 });
        floors.set(at, Some(16_000));
        assert_eq!(floors.above(at, 0), Some(16_000));
        assert_eq!(floors.above(at, 1), Some(16_000), "its records are held back as long as it reads them");
        assert_eq!(floors.above(at, 16_002), None, "markers of transactions take offsets, too");
        assert_eq!(floors.above(at, 5), None, "a seek is somebody's own decision");

        floors.set(at, Some(9));
        floors.set(at, None);
        assert_eq!(floors.above(at, 0), None, "it may start anywhere");
    }
}
