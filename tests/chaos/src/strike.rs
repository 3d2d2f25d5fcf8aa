//! Carries out the schedule. An event strikes only when it hurts: while records wait and a batch is
//! in flight.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use unprompt_stream::{committed_offsets, list_topics};

use crate::feeder::Feeder;
use crate::fleet::SESSION_TIMEOUT;
use crate::patience::PATIENCE;
use crate::schedule::{Event, EventKind};
use crate::supervisor::{SERVICES, Supervisor};
use crate::world::World;
use crate::{Durations, LOOK};

/// The minimum lag that counts as load: more than transaction markers can add between two events.
pub const LEAST_LAG: u64 = 50;
/// The time that a frozen instance sleeps: longer than its group takes to remove it.
const FROZEN: Duration = SESSION_TIMEOUT.saturating_add(Duration::from_secs(3));
/// The interval between two looks for a batch in flight.
const GLIMPSE: Duration = Duration::from_millis(5);
/// The time that a measured lag stays valid.
const LAG_AGE: Duration = Duration::from_secs(2);

/// A fault that was carried out, and the state of its target.
#[derive(Clone, Debug, Serialize)]
pub struct Struck {
    pub at_s: f64,
    pub kind: EventKind,
    pub target: String,
    /// Records of the target's input that were not committed.
    pub lag: u64,
    /// Batches that the target had in flight.
    pub batches_in_flight: u64,
}

/// Carries out events.
#[derive(Clone, Copy)]
pub struct Striker<'a> {
    pub world: &'a World,
    pub fleet: &'a Supervisor,
    pub started: Instant,
    pub feeder: &'a Feeder<'a>,
    pub durations: Durations,
}

impl Striker<'_> {
    /// Waits for the moment, strikes, and starts the repair.
    pub async fn strike(&self, event: Event) -> anyhow::Result<Struck> {
        tokio::time::sleep(event.pause).await;
        let (lag, batches_in_flight) = self.moment(event).await?;
        let at_s = self.started.elapsed().as_secs_f64();
        match event.kind {
            EventKind::Kill => self.fleet.kill(event.target, event.down).await?,
            EventKind::Term => self.fleet.terminate(event.target, event.down).await?,
            EventKind::Freeze => self.freeze(event.target).await?,
            EventKind::KillBroker | EventKind::StopBroker => {
                self.world.take_broker_away(event.kind == EventKind::KillBroker).await?;
                tokio::time::sleep(event.down).await;
                self.world.give_broker_back().await?;
            }
            EventKind::IndexAway => {
                self.world.take_index_away().await?;
                tokio::time::sleep(self.durations.index_away).await;
                self.world.give_index_back().await?;
            }
            EventKind::ClockJump => self.move_clock(event.target).await?,
            EventKind::FullDisk => self.fill_disk().await?,
            EventKind::Quota => self.limit_rate().await?,
        }
        Ok(Struck { at_s, kind: event.kind, target: self.target(event), lag, batches_in_flight })
    }

    fn target(&self, event: Event) -> String {
        match event.kind {
            EventKind::Kill | EventKind::Term | EventKind::Freeze => self.fleet.name(event.target).to_owned(),
            EventKind::ClockJump => self.fleet.name(self.fleet.clocked(event.target)).to_owned(),
            EventKind::KillBroker | EventKind::StopBroker | EventKind::Quota => "broker".to_owned(),
            EventKind::IndexAway => "index".to_owned(),
            EventKind::FullDisk => "disk".to_owned(),
        }
    }

    /// Moves the clock of one instance a day ahead, a day back, and right again.
    async fn move_clock(&self, target: usize) -> anyhow::Result<()> {
        let clock = self.fleet.clock(target)?;
        for days in [1, -1] {
            clock.jump(days)?;
            tokio::time::sleep(self.durations.clock_wrong).await;
        }
        clock.set_back()
    }

    /// Leaves broker and index without space for a while.
    async fn fill_disk(&self) -> anyhow::Result<()> {
        let _paused = self.feeder.paused().await;
        self.world.fill_disk()?;
        self.look_after_for(self.durations.disk_full).await?;
        self.world.free_disk().await
    }

    async fn limit_rate(&self) -> anyhow::Result<()> {
        let _paused = self.feeder.paused().await;
        self.world.set_quota(true).await?;
        self.look_after_for(self.durations.quota).await?;
        self.world.set_quota(false).await
    }

    async fn look_after_for(&self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.fleet.look_after().await?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Makes a zombie: the instance wakes after others have its partitions.
    async fn freeze(&self, at: usize) -> anyhow::Result<()> {
        self.fleet.signal(at, "STOP").await?;
        tokio::time::sleep(FROZEN).await;
        self.fleet.signal(at, "CONT").await
    }

    /// Waits for a moment to strike; returns the lag and the batches in flight at that moment.
    async fn moment(&self, event: Event) -> anyhow::Result<(u64, u64)> {
        let looked = Instant::now();
        let (service, targets) = self.at_stake(event);
        let mut lag: Option<(Instant, u64)> = None;
        while looked.elapsed() < PATIENCE {
            self.fleet.look_after().await?;
            if lag.is_none_or(|(at, _)| at.elapsed() > LAG_AGE) {
                // A broker that is just restarting does not answer yet.
                lag = lag_of(self.world, service).await.ok().map(|lag| (Instant::now(), lag));
            }
            let mut in_flight = 0;
            for &at in &targets {
                in_flight += self.fleet.batches_in_flight(at).await;
            }
            match lag {
                Some((_, lag)) if lag >= LEAST_LAG && in_flight > 0 => return Ok((lag, in_flight)),
                _ => tokio::time::sleep(GLIMPSE).await,
            }
        }
        bail!("no moment to strike within {PATIENCE:?}: {event:?}, lag {lag:?}")
    }

    /// The service whose lag and the instances whose batches decide the moment.
    fn at_stake(&self, event: Event) -> (&'static str, Vec<usize>) {
        match event.kind {
            EventKind::Kill | EventKind::Term | EventKind::Freeze => {
                (self.fleet.service(event.target), vec![event.target])
            }
            EventKind::ClockJump => {
                let target = self.fleet.clocked(event.target);
                (self.fleet.service(target), vec![target])
            }
            EventKind::KillBroker | EventKind::StopBroker | EventKind::FullDisk | EventKind::Quota => {
                ("image-encoder", (0..self.fleet.len()).collect())
            }
            EventKind::IndexAway => ("predictor", self.fleet.of("predictor").collect()),
        }
    }
}

/// Records of the service's input that are not committed yet.
pub async fn lag_of(world: &World, service: &str) -> anyhow::Result<u64> {
    let input = SERVICES.iter().find(|(name, _)| *name == service).map(|(_, input)| *input);
    let input = input.with_context(|| format!("{service} is not struck here"))?;
    let committed: i64 = committed_offsets(&world.kafka, service, input).await?.values().sum();
    let topics = list_topics(&world.kafka).await?;
    let end = topics.iter().find(|state| state.topic == input).map_or(0, |state| state.offsets);
    Ok((end - committed).max(0) as u64)
}
