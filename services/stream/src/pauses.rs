//! Tracks which partitions were paused, so that each of them is resumed.
//!
//! librdkafka keeps a partition paused when it is lost and comes back to the same consumer. A
//! partition that was lost in a pause and came back after it would never be fetched again.

use std::collections::BTreeSet;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;

/// The partitions of the current pause; empty if there is none.
#[derive(Debug, Default)]
pub(crate) struct Pauses(BTreeSet<(String, i32)>);

impl Pauses {
    pub fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Pauses the assigned partitions that are not paused yet.
    pub fn pause<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) {
        if let Err(error) = self.try_pause(consumer) {
            tracing::warn!(%error, "partitions could not be paused");
        }
    }

    fn try_pause<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) -> KafkaResult<()> {
        let assigned = consumer.assignment()?;
        let elements = assigned.elements().into_iter();
        let topic_partition = elements.map(|element| (element.topic().to_owned(), element.partition()));
        let further: BTreeSet<_> =
            topic_partition.filter(|topic_partition| !self.0.contains(topic_partition)).collect();
        consumer.pause(&list(&further))?;
        self.0.extend(further);
        Ok(())
    }

    /// Resumes all of them, even those that other members have by now.
    pub fn resume<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>) {
        match consumer.resume(&list(&self.0)) {
            Ok(()) => self.0.clear(),
            Err(error) => tracing::warn!(%error, "partitions could not be resumed; it is tried again"),
        }
    }
}

fn list(topic_partitions: &BTreeSet<(String, i32)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(topic_partitions.len());
    for (topic, partition) in topic_partitions {
        list.add_partition(topic, *partition);
    }
    list
}
