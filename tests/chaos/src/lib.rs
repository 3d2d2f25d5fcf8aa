//! Chaos: while pictures stream through, some of them poison, instances of image-encoder and
//! predictor are killed, stopped and frozen or have a wrong clock, and broker and index become
//! unavailable, slow, or have no space on their disk. Then a consumer that shares no code with the
//! services counts the results.
//!
//! It knows the services by their command line, their topics and their metrics; it must not know
//! their internals.

mod clock;
mod drain;
mod feed;
mod feeder;
mod fleet;
mod patience;
mod picture;
mod poison;
mod provenance;
pub mod schedule;
mod small_disk;
pub mod soak;
mod strike;
mod supervisor;
mod witness;
mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tempfile::TempDir;
use unprompt_index::{ConnectOptions, Filter, PromptIndex};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{NamedVector, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_stream::read_records;

use drain::drain;
use feed::Feed;
use feeder::Feeder;
use fleet::{Instance, Recipe};
use patience::PATIENCE;
use poison::VectorSpace;
pub use provenance::Provenance;
use schedule::{Event, EventKind, schedule};
use strike::{Striker, Struck};
use supervisor::Supervisor;
use world::World;

/// Prompts to predict from.
const PROMPTS: usize = 300;
const LOOK: Duration = Duration::from_secs(1);

/// The broker of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Broker {
    /// Promises exactly once.
    Apache,
    /// Promises at least once.
    Embedded,
}

/// The number of faults of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub kills: usize,
    pub terms: usize,
    pub freezes: usize,
    pub broker_restarts: usize,
    pub index_outages: usize,
    pub clock_jumps: usize,
    pub full_disks: usize,
    /// Apache Kafka only.
    pub quotas: usize,
}

/// The durations of those faults that last.
#[derive(Clone, Copy, Debug)]
pub struct Durations {
    pub index_away: Duration,
    /// The time that a clock is a day ahead, and the time that it is a day behind.
    pub clock_wrong: Duration,
    pub disk_full: Duration,
    pub quota: Duration,
}

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `unprompt`.
    pub binary: PathBuf,
    /// A Python with kafka-python.
    pub python: PathBuf,
    pub broker: Broker,
    pub seed: u64,
    /// Records published before the first instance starts; more follow during the chaos.
    pub pictures: usize,
    /// Instances of each service.
    pub instances: usize,
    pub counts: Counts,
    pub durations: Durations,
    /// The folder to keep the instances' logs in; `None` deletes them after the run.
    pub logs: Option<PathBuf>,
}

/// The results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosReport {
    #[serde(flatten)]
    pub provenance: Provenance,
    pub broker: Broker,
    pub seed: u64,
    pub instances_of_each: usize,
    /// Records published, including poison.
    pub published: usize,
    /// Pictures with a prediction.
    pub predicted_distinct: usize,
    /// Good pictures without a prediction, and poison without a dead letter.
    pub lost: usize,
    /// Predictions and dead letters after the first one of their picture.
    pub duplicated: usize,
    /// Duplicates whose content differs from the first one's.
    pub duplicated_otherwise: usize,
    pub dead_letters: usize,
    pub poison: usize,
    /// Predicted poison, good pictures in the dead letters, and records that this run did not
    /// publish.
    pub strangers: usize,
    pub kills: usize,
    pub terms: usize,
    pub freezes: usize,
    pub broker_restarts: usize,
    pub index_outages: usize,
    pub clock_jumps: usize,
    pub full_disks: usize,
    pub quotas: usize,
    /// Instances that ended without being struck, or failed after SIGTERM.
    pub unexpected: Vec<String>,
    pub seconds: f64,
    pub events: Vec<Struck>,
}

impl ChaosReport {
    /// Checks that the broker kept its promise.
    ///
    /// # Errors
    ///
    /// The broken promise.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let Self { lost, duplicated, duplicated_otherwise, strangers, dead_letters, poison, .. } = self;
        ensure!(*lost == 0, "{lost} pictures are lost");
        ensure!(*strangers == 0, "{strangers} records are where they should not be");
        match self.broker {
            Broker::Apache => {
                ensure!(*duplicated == 0, "{duplicated} records are there twice");
                ensure!(dead_letters == poison, "{dead_letters} dead letters of {poison} poisonous pictures");
            }
            Broker::Embedded => {
                ensure!(
                    *duplicated_otherwise == 0,
                    "{duplicated_otherwise} repetitions differ from the first"
                );
            }
        }
        Ok(())
    }
}

/// Runs the chaos, which takes a few minutes to half an hour.
///
/// # Errors
///
/// If the run itself failed; its findings are in the report.
pub async fn run(options: Options) -> anyhow::Result<ChaosReport> {
    let started = Instant::now();
    ensure!(
        options.broker == Broker::Apache || options.counts.quotas == 0,
        "the embedded broker has no quotas; leave them out with --quotas 0"
    );
    let world = World::start(options.broker, options.counts.full_disks > 0).await?;
    let temporary = TempDir::new()?;
    let folder = options.logs.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let profile = if options.broker == Broker::Apache { "kafka" } else { "embedded" };
    let recipe = Recipe::new(options.binary.clone(), &world, profile, folder);
    say(started, "importing prompts");
    let space = fill_index(&recipe, &world, options.seed).await?;
    let feed = Feed { seed: options.seed, broker: options.broker, space };
    let feeder = Feeder::new(&world, feed)?;
    feeder.publish(options.pictures).await?;
    say(
        started,
        &format!(
            "{} records are published; starting {} of each service",
            options.pictures, options.instances
        ),
    );
    let fleet = Supervisor::start(recipe, options.instances, options.counts.clock_jumps > 0).await?;
    let striker =
        Striker { world: &world, fleet: &fleet, started, feeder: &feeder, durations: options.durations };
    let events = schedule(options.seed, &options.counts, fleet.len());
    let chaos = async {
        let struck = strike_all(striker, &events).await;
        feeder.stop();
        struck
    };
    let (struck, fed) = tokio::join!(chaos, feeder.keep_feeding());
    let struck = struck?;
    fed?;
    let published = feeder.published();
    say(started, &format!("the chaos is over; {published} records were published, what is left drains"));
    drain(&world, &fleet, started).await?;
    fleet.stop().await?;
    report(&options, &world, &fleet, &feeder, struck, started).await
}

fn say(started: Instant, what: &str) {
    eprintln!("[{:4.0} s] {what}", started.elapsed().as_secs_f64());
}

/// Indexes prompts of the tiny world, with the same commands and services as a user. Returns the
/// space of their vectors, which pictures share.
async fn fill_index(recipe: &Recipe, world: &World, seed: u64) -> anyhow::Result<VectorSpace> {
    let mut encoder = Instance::start(recipe, "text-encoder", "text-encoder", None)?;
    let mut indexer = Instance::start(recipe, "indexer", "indexer", None)?;
    let file = recipe.folder.join("prompts.txt");
    let sample = ["prompts", "sample", "-n", &PROMPTS.to_string(), "--seed", &seed.to_string()];
    let sampled = recipe.command().args(sample).stderr(Stdio::inherit()).output()?;
    ensure!(sampled.status.success(), "prompts could not be sampled");
    std::fs::write(&file, sampled.stdout)?;
    let imported = recipe.command().args(["prompts", "import"]).arg(&file).output()?;
    ensure!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    encoder.ready().await?;
    indexer.ready().await?;
    let index = PromptIndex::connect(&world.qdrant_url, ConnectOptions::default()).await?;
    let asked = Instant::now();
    while index.count(&Filter::default()).await.unwrap_or(0) < PROMPTS as u64 {
        ensure!(asked.elapsed() < PATIENCE, "the prompts are not indexed within {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
    for instance in [encoder, indexer] {
        instance.signal("TERM")?;
        instance.end().await?;
    }
    let mut clip = None;
    read_records(&world.kafka, &Codec::single_object(), |prompt: PromptEmbedding| clip = Some(prompt.clip))
        .await?;
    let NamedVector { model, values } = clip.context("prompts were embedded")?;
    Ok(VectorSpace { model, dims: values.len() })
}

async fn strike_all(striker: Striker<'_>, events: &[Event]) -> anyhow::Result<Vec<Struck>> {
    let mut struck = Vec::with_capacity(events.len());
    for (at, event) in events.iter().enumerate() {
        let done = striker.strike(*event).await?;
        let (kind, number, all) = (done.kind, at + 1, events.len());
        say(
            striker.started,
            &format!(
                "{number}/{all}: {kind:?} {} at {:.0} s, lag {}, {} batches in flight",
                done.target, done.at_s, done.lag, done.batches_in_flight
            ),
        );
        struck.push(done);
    }
    Ok(struck)
}

async fn report(
    options: &Options,
    world: &World,
    fleet: &Supervisor,
    feeder: &Feeder<'_>,
    events: Vec<Struck>,
    started: Instant,
) -> anyhow::Result<ChaosReport> {
    say(started, "all is through; the witness counts");
    let (python, published) = (&options.python, feeder.published());
    let read = |topic| tokio::task::block_in_place(|| witness::read(python, world, topic));
    let (predictions, dead) = (read(Topic::Predictions)?, read(Topic::DeadLetters)?);
    let (poison, good): (BTreeSet<usize>, BTreeSet<usize>) =
        (0..published).partition(|&number| feeder.feed.is_poison(number));
    let missing = |wanted: &BTreeSet<usize>, seen: &BTreeSet<usize>| wanted.difference(seen).count();
    let count = |kinds: &[EventKind]| events.iter().filter(|struck| kinds.contains(&struck.kind)).count();
    Ok(ChaosReport {
        provenance: Provenance::of(&options.binary)?,
        broker: options.broker,
        seed: options.seed,
        instances_of_each: options.instances,
        published,
        predicted_distinct: predictions.numbers.len(),
        lost: missing(&good, &predictions.numbers) + missing(&poison, &dead.numbers),
        duplicated: predictions.repeated + dead.repeated,
        duplicated_otherwise: predictions.repeated_otherwise + dead.repeated_otherwise,
        dead_letters: dead.numbers.len() + dead.repeated,
        poison: poison.len(),
        strangers: missing(&predictions.numbers, &good)
            + missing(&dead.numbers, &poison)
            + predictions.strangers
            + dead.strangers,
        kills: count(&[EventKind::Kill]),
        terms: count(&[EventKind::Term]),
        freezes: count(&[EventKind::Freeze]),
        broker_restarts: count(&[EventKind::KillBroker, EventKind::StopBroker]),
        index_outages: count(&[EventKind::IndexAway]),
        clock_jumps: count(&[EventKind::ClockJump]),
        full_disks: count(&[EventKind::FullDisk]),
        quotas: count(&[EventKind::Quota]),
        unexpected: fleet.unexpected().await,
        seconds: started.elapsed().as_secs_f64(),
        events,
    })
}

/// Writes a report to the file that `make chaos` keeps.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(report: &ChaosReport, file: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(file, text).with_context(|| format!("{} can be written", file.display()))
}
