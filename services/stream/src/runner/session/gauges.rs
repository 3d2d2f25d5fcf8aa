//! The gauges of a session: its lag, its records in flight, its partitions.

use super::Session;
use crate::consumer::End;
use crate::events::{InHand, Lag, PartitionsChanged, RecordsExpired};
use crate::offsets::TopicPartition;

impl Session<'_> {
    /// Reports the lag of each assigned partition: the records before its end, as the broker
    /// reports it, that are not done.
    pub(super) fn report_lag(&mut self, ends: &[End]) {
        for end in ends.iter().filter(|end| self.offsets.is_assigned(end.topic_partition)) {
            self.lag(end.topic_partition, self.behind(end)).emit();
            let (start, TopicPartition { topic, partition }) = (end.start, end.topic_partition);
            let records = self.expired.note(end);
            if records > 0 {
                let (service, topic) = (self.stage.service.name, self.consumer.names.name(topic));
                tracing::debug!(topic, partition, start, "the first offset kept is after the next to read");
                RecordsExpired { service, topic, partition, records }.emit();
            }
        }
    }

    fn behind(&self, end: &End) -> i64 {
        if end.drained && self.in_flight.bytes() == 0 {
            return 0;
        }
        let done = self.offsets.done(end.topic_partition).or(end.committed).unwrap_or(end.start);
        (end.end - done).max(0)
    }

    /// Sets the lag of partitions to 0. Their new owner reports it from here on, so the sum over
    /// all instances stays right. Until there is a new owner, nobody reports it; an instance that
    /// is no member shows in its readiness.
    pub(super) fn clear_lag(&self, topic_partitions: &[TopicPartition]) {
        topic_partitions.iter().for_each(|&topic_partition| self.lag(topic_partition, 0).emit());
    }

    fn lag(&self, topic_partition: TopicPartition, records: i64) -> Lag {
        let topic = self.consumer.names.name(topic_partition.topic);
        Lag { service: self.stage.service.name, topic, partition: topic_partition.partition, records }
    }

    pub(super) fn report_in_flight(&self) {
        let (bytes, batches) = (self.in_flight.bytes(), self.batches.len());
        InHand { service: self.stage.service.name, bytes, batches }.emit();
    }

    pub(super) fn clear_gauges(&self) {
        self.clear_lag(&self.offsets.topic_partitions());
        InHand { service: self.stage.service.name, bytes: 0, batches: 0 }.emit();
    }

    pub(super) fn partitions_changed(&self, kind: &'static str, partitions: usize) {
        PartitionsChanged { service: self.stage.service.name, kind, partitions }.emit();
    }
}
