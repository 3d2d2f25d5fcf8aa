//! Counts the bytes that the runner holds, against their limit. It must not know who holds what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::InputRecord;

/// The bytes held by the runner, and their limit: records it has taken, and outputs that
/// are not written yet.
#[derive(Debug)]
pub(crate) struct InFlight {
    inputs: AtomicUsize,
    outputs: AtomicUsize,
    pub limit: usize,
}

impl InFlight {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { inputs: AtomicUsize::new(0), outputs: AtomicUsize::new(0), limit })
    }

    fn cost(record: &InputRecord) -> usize {
        record.memory_bytes()
    }

    pub fn add(&self, record: &InputRecord) {
        self.inputs.fetch_add(Self::cost(record), Ordering::Relaxed);
    }

    pub fn release<'a>(&self, records: impl IntoIterator<Item = &'a InputRecord>) {
        let bytes = records.into_iter().map(Self::cost).sum();
        self.inputs.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts outputs and dead letters that wait to be written.
    pub fn add_outputs(&self, bytes: usize) {
        self.outputs.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Releases outputs that are written, or left to the next owner.
    pub fn release_outputs(&self, bytes: usize) {
        self.outputs.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn bytes(&self) -> usize {
        self.inputs.load(Ordering::Relaxed) + self.outputs.load(Ordering::Relaxed)
    }

    /// Returns whether the stage must wait until something is written: the limit is reached, and
    /// outputs take more than half of it. Inputs alone never block the stage, because only the
    /// stage processes them; outputs are written without it.
    pub fn is_full_of_outputs(&self) -> bool {
        self.is_full() && self.outputs.load(Ordering::Relaxed) > self.limit / 2
    }

    pub fn is_full(&self) -> bool {
        self.bytes() >= self.limit
    }

    pub fn has_room_again(&self) -> bool {
        self.bytes() <= self.limit / 2
    }
}

#[cfg(test)]
mod tests {
    use unprompt_schemas::topics::Topic;

    use super::*;

    fn taken(bytes: usize) -> InputRecord {
        let empty = InputRecord::new(Topic::Prompts);
        InputRecord { value: Some(vec![0; bytes - empty.memory_bytes()]), ..empty }
    }

    #[test]
    fn a_million_empty_headers_count() {
        let in_flight = InFlight::new(1_000);
        let headers = vec![(String::new(), Vec::new()); 1_000_000];
        in_flight.add(&InputRecord { headers, ..InputRecord::new(Topic::Prompts) });
        assert!(in_flight.bytes() > 48_000_000, "{}", in_flight.bytes());
    }

    #[test]
    fn outputs_count_against_the_bound_until_they_are_written() {
        let in_flight = InFlight::new(1_000);
        in_flight.add(&taken(300));
        in_flight.add_outputs(700);
        assert_eq!(in_flight.bytes(), 1_000);
        assert!(in_flight.is_full(), "nothing more is taken");
        assert!(in_flight.is_full_of_outputs(), "nothing more is made");
        in_flight.release_outputs(700);
        assert!(in_flight.has_room_again() && !in_flight.is_full_of_outputs());
        in_flight.release([&taken(300)]);
        assert_eq!(in_flight.bytes(), 0);
    }

    #[test]
    fn inputs_that_fill_the_limit_do_not_block_the_stage() {
        for limit in [0, 1, 1_000] {
            let in_flight = InFlight::new(limit);
            in_flight.add(&taken(1_000));
            assert!(in_flight.is_full() && !in_flight.is_full_of_outputs(), "a limit of {limit}");
        }
    }
}
