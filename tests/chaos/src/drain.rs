//! Decides when a run is over: every service has read its input to the end, no instance holds a
//! record, and nothing changes any more.

use std::time::{Duration, Instant};

use anyhow::ensure;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{Profile, list_topics};

use crate::strike::{LEAST_LAG, lag_of};
use crate::supervisor::{SERVICES, Supervisor};
use crate::world::World;
use crate::{LOOK, say};

/// The time that nothing may change before a run is over.
const STILL: Duration = Duration::from_secs(3);
/// The time that nothing may change if transaction markers cause a lag. Records behind a
/// transaction that an instance left open look the same until the broker aborts it after
/// `transaction_timeout_ms` (15 s).
const STILL_WITH_MARKS: Duration = Duration::from_secs(20);
/// The interval between two lines about the remaining records.
const TELL: Duration = Duration::from_secs(10);
/// The maximum duration of a drain.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1_200);

/// A service's lag on its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lag {
    /// Offsets that its consumer group has not committed.
    offsets: u64,
    /// The maximum number of those offsets that are transaction markers instead of records.
    marks: u64,
}

/// The state of the run at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    /// The lag of every running service.
    lags: Vec<Lag>,
    /// True if every instance is ready and holds no record.
    idle: bool,
    /// The offsets of every topic.
    ends: Vec<i64>,
}

impl Snapshot {
    async fn take(world: &World, fleet: &Supervisor) -> anyhow::Result<Self> {
        let idle = fleet.is_idle().await;
        let mut lags = Vec::new();
        for (service, input) in SERVICES {
            lags.push(Lag { offsets: lag_of(world, service).await?, marks: marks_in(world, input) });
        }
        let ends = list_topics(&world.kafka).await?.iter().map(|state| state.offsets).collect();
        Ok(Self { lags, idle, ends })
    }

    /// The time that the run must stay in this state to be over; `None` while there is work left.
    fn stillness(&self) -> Option<Duration> {
        let may_be_over = self.idle && self.lags.iter().all(|lag| lag.offsets <= lag.marks);
        may_be_over.then(|| match self.left() {
            0 => STILL,
            _ => STILL_WITH_MARKS,
        })
    }

    fn left(&self) -> u64 {
        self.lags.iter().map(|lag| lag.offsets).sum()
    }
}

/// The maximum number of transaction markers at the ends of the input's partitions. The pictures
/// are published without transactions.
fn marks_in(world: &World, input: Topic) -> u64 {
    match (world.kafka.profile, input) {
        (Profile::Embedded, _) | (_, Topic::Images) => 0,
        _ => LEAST_LAG - 1,
    }
}

/// The time that the run has been in the same state.
#[derive(Default)]
struct Stillness {
    since: Option<(Instant, Snapshot)>,
}

impl Stillness {
    /// Takes a look at `now` (`None` if the broker did not answer) and returns whether the run is
    /// over.
    fn is_over(&mut self, look: Option<Snapshot>, now: Instant) -> bool {
        let Some(look) = look else {
            self.since = None;
            return false;
        };
        let since = match self.since.take() {
            Some((since, before)) if before == look => since,
            _ => now,
        };
        let over = look.stillness().is_some_and(|wanted| now - since >= wanted);
        self.since = Some((since, look));
        over
    }
}

/// Waits until the run is over.
///
/// # Errors
///
/// If it takes longer than [`DRAIN_PATIENCE`]; the error contains the last look.
pub async fn drain(world: &World, fleet: &Supervisor, started: Instant) -> anyhow::Result<()> {
    let since = Instant::now();
    let (mut stillness, mut progress) = (Stillness::default(), Progress::default());
    loop {
        tokio::time::sleep(LOOK).await;
        fleet.look_after().await?;
        let look = Snapshot::take(world, fleet).await.ok();
        if let Some(look) = &look {
            progress.tell(look.left(), started);
        }
        if stillness.is_over(look.clone(), Instant::now()) {
            return Ok(());
        }
        ensure!(since.elapsed() < DRAIN_PATIENCE, "the run is not over after {DRAIN_PATIENCE:?}: {look:?}");
    }
}

/// Prints how many records are left and how long they may take.
#[derive(Default)]
struct Progress {
    told: Option<(Instant, u64)>,
}

impl Progress {
    fn tell(&mut self, left: u64, started: Instant) {
        if self.told.is_some_and(|(at, _)| at.elapsed() < TELL) {
            return;
        }
        let now = Instant::now();
        if let Some((at, before)) = self.told.replace((now, left)) {
            let rate = before.saturating_sub(left) as f64 / (now - at).as_secs_f64();
            let estimate = if rate > 0.0 { format!("about {:.0} s", left as f64 / rate) } else { "?".into() };
            say(started, &format!("{left} records left, {rate:.0} a second, {estimate}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(encoders: u64, predictors: u64, marks: u64) -> Snapshot {
        let lag = |offsets, marks| Lag { offsets, marks };
        Snapshot { lags: vec![lag(encoders, 0), lag(predictors, marks)], idle: true, ends: vec![9] }
    }

    /// The second at which a run that looks like this from the beginning is over.
    fn over_after_s(look: Option<&Snapshot>) -> Option<u64> {
        let (mut stillness, began) = (Stillness::default(), Instant::now());
        (0..60).find(|&s| stillness.is_over(look.cloned(), began + Duration::from_secs(s)))
    }

    #[test]
    fn a_run_without_a_lag_is_over_when_nothing_moves() {
        assert_eq!(over_after_s(Some(&look(0, 0, 0))), Some(STILL.as_secs()));
    }

    #[test]
    fn a_run_with_a_lagging_service_is_not_over_even_if_every_instance_is_idle() {
        assert_eq!(over_after_s(Some(&look(0, 15_352, 0))), None);
        assert_eq!(over_after_s(Some(&look(0, 15_352, LEAST_LAG - 1))), None);
        assert_eq!(over_after_s(Some(&look(1, 0, LEAST_LAG - 1))), None);
    }

    #[test]
    fn a_run_with_only_transaction_markers_left_is_over_after_a_longer_wait() {
        assert_eq!(over_after_s(Some(&look(0, 4, LEAST_LAG - 1))), Some(STILL_WITH_MARKS.as_secs()));
    }

    #[test]
    fn a_run_with_a_busy_instance_or_an_unreachable_broker_is_not_over() {
        assert_eq!(over_after_s(Some(&Snapshot { idle: false, ..look(0, 0, 0) })), None);
        assert_eq!(over_after_s(None), None);
    }

    #[test]
    fn a_growing_topic_restarts_the_wait() {
        let (mut stillness, began) = (Stillness::default(), Instant::now());
        let grown = Snapshot { ends: vec![10], ..look(0, 0, 0) };
        let at = |s| began + Duration::from_secs(s);
        assert!(!stillness.is_over(Some(look(0, 0, 0)), at(0)));
        assert!(!stillness.is_over(Some(grown.clone()), at(2)));
        assert!(!stillness.is_over(Some(grown.clone()), at(4)));
        assert!(stillness.is_over(Some(grown), at(5)));
    }
}
