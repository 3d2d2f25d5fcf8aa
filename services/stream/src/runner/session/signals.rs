//! What a session tells of itself while it works: how far it is behind, and what it has in hand.

use super::Session;
use crate::consumer::End;
use crate::events::{InHand, Lag, PartitionsChanged};
use crate::offsets::Place;

impl Session<'_> {
    /// The records of each of our partitions that are not done, by where the broker says that it ends.
    pub(super) fn tell_lag(&self, ends: &[End]) {
        for end in ends.iter().filter(|end| self.offsets.is_assigned(end.place)) {
            self.lag(end.place, self.behind(end)).emit();
        }
    }

    fn behind(&self, end: &End) -> i64 {
        if end.drained && self.in_flight.bytes() == 0 {
            return 0;
        }
        let done = self.offsets.done(end.place).or(end.committed).unwrap_or(end.start);
        (end.end - done).max(0)
    }

    /// The new owner tells it from here on; the sum over all instances stays right. Where nobody has become the owner yet, nobody
    /// tells it: that an instance is no member is for its readiness to say.
    pub(super) fn forget_lag(&self, places: &[Place]) {
        places.iter().for_each(|&place| self.lag(place, 0).emit());
    }

    fn lag(&self, place: Place, records: i64) -> Lag {
        let topic = self.consumer.names.name(place.topic);
        Lag { service: self.stage.service.name, topic, partition: place.partition, records }
    }

    pub(super) fn tell_what_is_in_hand(&self) {
        let (bytes, batches) = (self.in_flight.bytes(), self.batches.len());
        InHand { service: self.stage.service.name, bytes, batches }.emit();
    }

    pub(super) fn tell_of_an_empty_hand(&self) {
        self.forget_lag(&self.offsets.places());
        InHand { service: self.stage.service.name, bytes: 0, batches: 0 }.emit();
    }

    pub(super) fn partitions_changed(&self, kind: &'static str, partitions: usize) {
        PartitionsChanged { service: self.stage.service.name, kind, partitions }.emit();
    }
}
