//! The schedule of faults, drawn from a seed so that a run can be repeated.

use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::Counts;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// SIGKILL to an instance, which is then restarted.
    Kill,
    /// SIGTERM to an instance, which must end with success and is then restarted.
    Term,
    /// SIGSTOP to an instance until its group has removed it, then SIGCONT: a zombie.
    Freeze,
    /// SIGKILL to the broker, which is then restarted.
    KillBroker,
    /// A graceful stop of the broker, which is then restarted.
    StopBroker,
    /// The index is unavailable for a while.
    IndexAway,
    /// The wall clock of one instance is a day ahead, then a day behind, then right again.
    ClockJump,
    /// The disk of broker and index has no space for a while.
    FullDisk,
    /// The broker limits the services to a few bytes a second for a while.
    Quota,
}

/// One event of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// The position in the fleet of the instance to strike, if the fault strikes one.
    pub target: usize,
    /// The pause after the previous event.
    pub pause: Duration,
    /// The time that the target stays down, except the index.
    pub down: Duration,
}

/// The events in order, for a fleet of `instances`.
pub fn schedule(seed: u64, counts: &Counts, instances: usize) -> Vec<Event> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut kinds = kinds(counts);
    kinds.shuffle(&mut rng);
    let event = |kind| Event {
        kind,
        target: rng.random_range(0..instances),
        pause: Duration::from_millis(rng.random_range(500..5_000)),
        down: Duration::from_millis(rng.random_range(0..2_500)),
    };
    kinds.into_iter().map(event).collect()
}

fn kinds(counts: &Counts) -> Vec<EventKind> {
    let brokers =
        (0..counts.broker_restarts).map(|at| [EventKind::KillBroker, EventKind::StopBroker][at % 2]);
    let of = |kind, count| std::iter::repeat_n(kind, count);
    of(EventKind::Kill, counts.kills)
        .chain(of(EventKind::Term, counts.terms))
        .chain(of(EventKind::Freeze, counts.freezes))
        .chain(of(EventKind::IndexAway, counts.index_outages))
        .chain(of(EventKind::ClockJump, counts.clock_jumps))
        .chain(of(EventKind::FullDisk, counts.full_disks))
        .chain(of(EventKind::Quota, counts.quotas))
        .chain(brokers)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts {
        kills: 15,
        terms: 5,
        freezes: 2,
        broker_restarts: 2,
        index_outages: 2,
        clock_jumps: 3,
        full_disks: 1,
        quotas: 1,
    };

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_seed_a_different_one() {
        assert_eq!(schedule(1, &COUNTS, 6), schedule(1, &COUNTS, 6));
        assert_ne!(schedule(1, &COUNTS, 6), schedule(2, &COUNTS, 6));
    }

    #[test]
    fn a_schedule_contains_every_requested_event() {
        let events = schedule(7, &COUNTS, 6);
        let count = |kind| events.iter().filter(|event| event.kind == kind).count();
        assert_eq!((count(EventKind::Kill), count(EventKind::Term), count(EventKind::Freeze)), (15, 5, 2));
        assert_eq!(
            (count(EventKind::KillBroker), count(EventKind::StopBroker), count(EventKind::IndexAway)),
            (1, 1, 2)
        );
        assert_eq!(
            (count(EventKind::ClockJump), count(EventKind::FullDisk), count(EventKind::Quota)),
            (3, 1, 1)
        );
        assert!(events.iter().all(|event| event.target < 6));
    }
}
