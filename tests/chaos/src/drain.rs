//! Decides when a run is over: every service has read its input to the end, no instance holds a
//! record, and nothing moves any more.

use std::time::{Duration, Instant};

use anyhow::ensure;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{Profile, list_topics};

use crate::strike::{LEAST_LAG, lag_of};
use crate::supervisor::{SERVICES, Supervisor};
use crate::world::World;
use crate::{LOOK, say};

/// A run is over when nothing has moved for this long.
const STILL: Duration = Duration::from_secs(3);
/// Where the marks of transactions make a lag, nothing has to move for this long: records behind a
/// transaction that an instance left open look the same, until the broker aborts it after
/// `transaction_timeout_ms` (15 s).
const STILL_WITH_MARKS: Duration = Duration::from_secs(20);
/// Between two lines about what is left.
const TELL: Duration = Duration::from_secs(10);
/// The longest time that a drain may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1_200);

/// The lag of a service in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lag {
    /// Offsets that its consumer group has not committed.
    offsets: u64,
    /// At most this many of them are no records but the marks of transactions.
    marks: u64,
}

/// The run at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    /// Of every service that runs.
    lags: Vec<Lag>,
    /// Every instance is ready and holds no record.
    idle: bool,
    /// The offsets of every topic.
    ends: Vec<i64>,
}

impl Look {
    async fn take(world: &World, fleet: &Supervisor) -> anyhow::Result<Self> {
        let idle = fleet.is_idle().await;
        let mut lags = Vec::new();
        for (service, input) in SERVICES {
            lags.push(Lag { offsets: lag_of(world, service).await?, marks: marks_in(world, input) });
        }
        let ends = list_topics(&world.kafka).await?.iter().map(|state| state.offsets).collect();
        Ok(Self { lags, idle, ends })
    }

    /// How long the run has to stand still like this to be over; none while there is work left.
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

/// Marks of transactions that may end the partitions of a service's input. The pictures are
/// published without one.
fn marks_in(world: &World, input: Topic) -> u64 {
    match (world.kafka.profile, input) {
        (Profile::Embedded, _) | (_, Topic::Images) => 0,
        _ => LEAST_LAG - 1,
    }
}

/// Since when the run looks the same.
#[derive(Default)]
struct Stillness {
    since: Option<(Instant, Look)>,
}

impl Stillness {
    /// Takes a look at `now`, none where the broker did not answer, and says whether the run is
    /// over.
    fn is_over(&mut self, look: Option<Look>, now: Instant) -> bool {
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
/// Where it takes longer than [`DRAIN_PATIENCE`], with what was left.
pub async fn drain(world: &World, fleet: &Supervisor, started: Instant) -> anyhow::Result<()> {
    let since = Instant::now();
    let (mut stillness, mut progress) = (Stillness::default(), Progress::default());
    loop {
        tokio::time::sleep(LOOK).await;
        fleet.look_after().await?;
        let look = Look::take(world, fleet).await.ok();
        if let Some(look) = &look {
            progress.tell(look.left(), started);
        }
        if stillness.is_over(look.clone(), Instant::now()) {
            return Ok(());
        }
        ensure!(since.elapsed() < DRAIN_PATIENCE, "the run is not over after {DRAIN_PATIENCE:?}: {look:?}");
    }
}

/// Tells how much is left and how long it may take.
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

    fn look(encoders: u64, predictors: u64, marks: u64) -> Look {
        let lag = |offsets, marks| Lag { offsets, marks };
        Look { lags: vec![lag(encoders, 0), lag(predictors, marks)], idle: true, ends: vec![9] }
    }

    /// The second at which the run is over when it looks like this from its beginning on.
    fn over_after_s(look: Option<&Look>) -> Option<u64> {
        let (mut stillness, began) = (Stillness::default(), Instant::now());
        (0..60).find(|&s| stillness.is_over(look.cloned(), began + Duration::from_secs(s)))
    }

    #[test]
    fn a_run_without_a_lag_is_over_when_nothing_moves() {
        assert_eq!(over_after_s(Some(&look(0, 0, 0))), Some(STILL.as_secs()));
    }

    #[test]
    fn a_run_in_which_any_service_is_behind_goes_on_though_every_hand_is_empty() {
        assert_eq!(over_after_s(Some(&look(0, 15_352, 0))), None);
        assert_eq!(over_after_s(Some(&look(0, 15_352, LEAST_LAG - 1))), None);
        assert_eq!(over_after_s(Some(&look(1, 0, LEAST_LAG - 1))), None);
    }

    #[test]
    fn a_lag_of_marks_is_the_end_only_after_open_transactions_have_ended() {
        assert_eq!(over_after_s(Some(&look(0, 4, LEAST_LAG - 1))), Some(STILL_WITH_MARKS.as_secs()));
    }

    #[test]
    fn a_run_with_a_busy_instance_or_without_a_broker_goes_on() {
        assert_eq!(over_after_s(Some(&Look { idle: false, ..look(0, 0, 0) })), None);
        assert_eq!(over_after_s(None), None);
    }

    #[test]
    fn a_topic_that_grows_begins_the_wait_anew() {
        let (mut stillness, began) = (Stillness::default(), Instant::now());
        let grown = Look { ends: vec![10], ..look(0, 0, 0) };
        let at = |s| began + Duration::from_secs(s);
        assert!(!stillness.is_over(Some(look(0, 0, 0)), at(0)));
        assert!(!stillness.is_over(Some(grown.clone()), at(2)));
        assert!(!stillness.is_over(Some(grown.clone()), at(4)));
        assert!(stillness.is_over(Some(grown), at(5)));
    }
}
