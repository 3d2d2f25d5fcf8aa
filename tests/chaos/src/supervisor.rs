//! Keeps the fleet running like an orchestrator: it restarts ended instances, and records those
//! that ended by themselves.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::Mutex;
use unprompt_schemas::topics::Topic;

use crate::clock::Clock;
use crate::fleet::{Instance, Recipe};

/// The services that run and are struck, each with its input topic.
pub const SERVICES: [(&str, Topic); 2] =
    [("image-encoder", Topic::Images), ("predictor", Topic::ImageEmbeddings)];

/// A place for an instance; empty while it is down.
#[derive(Debug)]
struct Slot {
    service: &'static str,
    name: String,
    /// The clock that the harness controls, of one instance of each service.
    clock: Option<Clock>,
    instance: Mutex<Option<Instance>>,
}

/// All instances, by their position.
#[derive(Clone, Debug)]
pub struct Supervisor {
    recipe: Recipe,
    slots: Arc<Vec<Slot>>,
    ended_by_themselves: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    /// Starts `each` instances of every service. The last one of each has no name that outlives it;
    /// the first one has a clock of its own if `clocks` is set.
    pub async fn start(recipe: Recipe, each: usize, clocks: bool) -> anyhow::Result<Self> {
        let mut slots = Vec::new();
        for (service, _) in SERVICES {
            for at in 0..each {
                let suffix = if at + 1 == each { "anonymous".to_owned() } else { at.to_string() };
                let name = format!("{service}-{suffix}");
                let has_clock = clocks && at == 0;
                let clock = has_clock.then(|| Clock::new(&recipe.folder, &name)).transpose()?;
                slots.push(Slot { service, name, clock, instance: Mutex::new(None) });
            }
        }
        let ended_by_themselves = Arc::default();
        let supervisor = Self { recipe, slots: Arc::new(slots), ended_by_themselves };
        for at in 0..supervisor.len() {
            supervisor.start_again(at).await?;
        }
        supervisor.all_ready().await?;
        Ok(supervisor)
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn service(&self, at: usize) -> &'static str {
        self.slots[at].service
    }

    pub fn name(&self, at: usize) -> &str {
        &self.slots[at].name
    }

    /// The instance of the same service that has a clock of its own.
    pub fn clocked(&self, at: usize) -> usize {
        self.of(self.service(at)).next().unwrap_or(at)
    }

    /// The clock of [`Self::clocked`].
    pub fn clock(&self, at: usize) -> anyhow::Result<&Clock> {
        self.slots[self.clocked(at)].clock.as_ref().context("the fleet was started without clocks")
    }

    /// The instances of a service.
    pub fn of(&self, service: &str) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(move |&at| self.slots[at].service == service)
    }

    /// Batches that the instance has in flight; zero while it is down or does not answer.
    pub async fn batches_in_flight(&self, at: usize) -> u64 {
        match &*self.slots[at].instance.lock().await {
            Some(instance) => instance.batches_in_flight(),
            None => 0,
        }
    }

    pub async fn signal(&self, at: usize, name: &str) -> anyhow::Result<()> {
        let instance = self.slots[at].instance.lock().await;
        instance.as_ref().with_context(|| format!("{} is down", self.name(at)))?.signal(name)
    }

    /// Sends SIGKILL and starts a new instance after `down`, in the background.
    pub async fn kill(&self, at: usize, down: Duration) -> anyhow::Result<()> {
        let instance = self.take(at).await?;
        instance.signal("KILL")?;
        drop(instance);
        self.start_again_after(at, down);
        Ok(())
    }

    /// Sends SIGTERM, which it must obey, and starts a new instance after `down`, in the
    /// background.
    pub async fn terminate(&self, at: usize, down: Duration) -> anyhow::Result<()> {
        let instance = self.take(at).await?;
        instance.signal("TERM")?;
        let (this, name) = (self.clone(), self.name(at).to_owned());
        tokio::spawn(async move {
            match instance.end().await {
                Ok(status) if status.success() => {}
                Ok(status) => this.note(format!("{name} was told to stop and ended with {status}")).await,
                Err(error) => this.note(format!("{error:#}")).await,
            }
            this.start_again_after(at, down);
        });
        Ok(())
    }

    async fn take(&self, at: usize) -> anyhow::Result<Instance> {
        let taken = self.slots[at].instance.lock().await.take();
        taken.with_context(|| format!("{} is down", self.name(at)))
    }

    fn start_again_after(&self, at: usize, down: Duration) {
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(down).await;
            if let Err(error) = this.start_again(at).await {
                this.note(format!("{error:#}")).await;
            }
        });
    }

    async fn start_again(&self, at: usize) -> anyhow::Result<()> {
        let clock = self.slots[at].clock.as_ref();
        let instance = Instance::start(&self.recipe, self.service(at), self.name(at), clock)?;
        *self.slots[at].instance.lock().await = Some(instance);
        Ok(())
    }

    /// Restarts instances that ended by themselves.
    pub async fn look_after(&self) -> anyhow::Result<()> {
        for (at, slot) in self.slots.iter().enumerate() {
            let mut place = slot.instance.lock().await;
            let ended = place.as_mut().map(Instance::ended).transpose()?.flatten();
            if let Some(status) = ended {
                *place = None;
                drop(place);
                self.note(format!("{} ended by itself with {status}", slot.name)).await;
                self.start_again(at).await?;
            }
        }
        Ok(())
    }

    pub async fn all_ready(&self) -> anyhow::Result<()> {
        for slot in self.slots.iter() {
            let mut place = slot.instance.lock().await;
            let instance = place.as_mut().with_context(|| format!("{} is down", slot.name))?;
            instance.ready().await?;
        }
        Ok(())
    }

    /// Returns whether every instance runs, is ready, and has nothing in flight.
    pub async fn is_idle(&self) -> bool {
        for slot in self.slots.iter() {
            let place = slot.instance.lock().await;
            let idle = |instance: &Instance| {
                instance.is_ready() && instance.metric("unprompt_bytes_in_flight") == Some(0.0)
            };
            if !place.as_ref().is_some_and(idle) {
                return false;
            }
        }
        true
    }

    /// Stops all instances; each must end with success.
    pub async fn stop(&self) -> anyhow::Result<()> {
        let mut ending = Vec::new();
        for at in 0..self.len() {
            let instance = self.take(at).await?;
            instance.signal("TERM")?;
            ending.push((at, instance));
        }
        for (at, instance) in ending {
            let status = instance.end().await?;
            ensure!(status.success(), "{} was told to stop and ended with {status}", self.name(at));
        }
        Ok(())
    }

    async fn note(&self, what: String) {
        eprintln!("  ! {what}");
        self.ended_by_themselves.lock().await.push(what);
    }

    /// The failures of instances that were not struck.
    pub async fn unexpected(&self) -> Vec<String> {
        self.ended_by_themselves.lock().await.clone()
    }
}
