//! What goes wrong and when: drawn from a seed, so that a run can be repeated.

use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::Counts;

/// A way to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL to an instance, which is started again.
    Kill,
    /// SIGTERM to an instance, which must end with success, and is started again.
    Term,
    /// SIGSTOP to an instance until its group has given it up, then SIGCONT: a zombie.
    Freeze,
    /// SIGKILL to the broker, which is started again.
    KillBroker,
    /// A graceful stop of the broker, which is started again.
    StopBroker,
    /// The index is away for a while.
    IndexAway,
}

/// One event of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    /// Which instance it strikes, where it strikes one: a position in the fleet.
    pub target: usize,
    /// How long after the event before it.
    pub pause: Duration,
    /// How long what it strikes stays down, the index aside.
    pub down: Duration,
}

/// The events in their order, for a fleet of so many instances.
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

fn kinds(counts: &Counts) -> Vec<Kind> {
    let brokers = (0..counts.broker_restarts).map(|at| [Kind::KillBroker, Kind::StopBroker][at % 2]);
    let of = |kind, count| std::iter::repeat_n(kind, count);
    of(Kind::Kill, counts.kills)
        .chain(of(Kind::Term, counts.terms))
        .chain(of(Kind::Freeze, counts.freezes))
        .chain(of(Kind::IndexAway, counts.index_outages))
        .chain(brokers)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts { kills: 15, terms: 5, freezes: 2, broker_restarts: 2, index_outages: 2 };

    #[test]
    fn a_seed_replays_its_schedule_and_another_gives_another() {
        assert_eq!(schedule(1, &COUNTS, 6), schedule(1, &COUNTS, 6));
        assert_ne!(schedule(1, &COUNTS, 6), schedule(2, &COUNTS, 6));
    }

    #[test]
    fn everything_that_was_asked_for_is_in_it() {
        let events = schedule(7, &COUNTS, 6);
        let count = |kind| events.iter().filter(|event| event.kind == kind).count();
        assert_eq!((count(Kind::Kill), count(Kind::Term), count(Kind::Freeze)), (15, 5, 2));
        assert_eq!((count(Kind::KillBroker), count(Kind::StopBroker), count(Kind::IndexAway)), (1, 1, 2));
        assert!(events.iter().all(|event| event.target < 6));
    }
}
