//! An hour of steady load: the memory of each process and the bytes on disk must not grow with
//! time.
//!
//! Pictures, poison and prompts that ask for a picture arrive at a constant rate, far below what
//! the services can do. Topics keep their records for five minutes, so that the disk reaches its
//! bound.

mod arrivals;
mod stack;
mod trend;
mod usage;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use serde::Serialize;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{NamedVector, Prompt, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_stream::read_records;

use crate::feed::Feed;
use crate::feeder::send;
use crate::patience::PATIENCE;
use crate::poison::VectorSpace;
use crate::{Broker, Provenance};
use arrivals::{Arrivals, Latency};
use stack::Stack;
use usage::{Usage, UsageReport};

/// Different prompts; each is published again and again.
const PROMPTS: usize = 1_000;
/// The interval between two prompts.
const PROMPT_EVERY: Duration = Duration::from_secs(2);
/// The interval between two samples of memory and disk.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// The interval between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// The part at either end of a run whose latency is reported.
const LATENCY_PART: u32 = 6;

/// The options of a run.
#[derive(Clone, Debug)]
pub struct SoakOptions {
    /// The binary `unprompt`.
    pub binary: PathBuf,
    pub broker: Broker,
    pub duration: Duration,
    /// The first part, which the trends leave out.
    pub warm_up: Duration,
    /// Records per second.
    pub rate: f64,
    pub seed: u64,
    /// The folder of the logs.
    pub logs: PathBuf,
}

/// The results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct SoakReport {
    #[serde(flatten)]
    pub provenance: Provenance,
    pub broker: Broker,
    pub seconds: f64,
    pub warm_up_seconds: f64,
    pub records_per_second: f64,
    pub published: usize,
    pub prompts_published: usize,
    pub predicted: usize,
    pub dead_letters: usize,
    pub poison: usize,
    /// Records without an answer at the end.
    pub lost: usize,
    pub repeated: usize,
    pub memory: Vec<UsageReport>,
    pub disk: Vec<UsageReport>,
    /// In the first sixth of the run after the warm-up, and in the last.
    pub latency_first: Option<Latency>,
    pub latency_last: Option<Latency>,
}

impl SoakReport {
    /// Checks that nothing was lost and that no process grows by more than `most_mib` an hour.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn verdict(&self, most_mib: f64) -> anyhow::Result<()> {
        let Self { lost, dead_letters, poison, .. } = self;
        ensure!(*lost == 0, "{lost} records have no answer");
        ensure!(dead_letters == poison, "{dead_letters} dead letters of {poison} poisonous records");
        for usage in self.memory.iter().chain(&self.disk) {
            let least = usage.trend_mib.map_or(0.0, |trend| trend.interval[0]);
            ensure!(least <= most_mib, "{} grows by at least {least:.0} MiB an hour", usage.name);
        }
        Ok(())
    }
}

/// Runs the load for its duration, and waits until all is answered.
///
/// # Errors
///
/// If the run itself failed; its findings are in the report.
pub async fn run(options: SoakOptions) -> anyhow::Result<SoakReport> {
    let stack = Stack::start(&options.binary, options.broker, &options.logs).await?;
    let load = Load::new(&stack, &options).await?;
    let (mut memory, mut disk) = stack.usages();
    let started = Instant::now();
    let arrivals = Arrivals::read(&stack.kafka.brokers, &stack.kafka.prefix, started)?;
    let watch = watch(&options, &arrivals, &mut memory, &mut disk, started);
    let (watched, loaded) = tokio::join!(watch, load.publish(&options, &arrivals, started));
    let (published, prompts_published) = loaded?;
    watched?;
    drain(&arrivals).await?;
    let arrived = arrivals.so_far();
    let reports = |usages: &[Usage]| usages.iter().map(|usage| usage.report(options.warm_up)).collect();
    let part = (options.duration - options.warm_up) / LATENCY_PART;
    let report = SoakReport {
        provenance: Provenance::of(&options.binary)?,
        broker: options.broker,
        seconds: options.duration.as_secs_f64(),
        warm_up_seconds: options.warm_up.as_secs_f64(),
        records_per_second: options.rate,
        published,
        prompts_published,
        predicted: arrived.predicted,
        dead_letters: arrived.dead,
        poison: (0..published).filter(|&number| load.feed.is_poison(number)).count(),
        lost: arrived.waiting,
        repeated: arrived.repeated,
        memory: reports(&memory),
        disk: reports(&disk),
        latency_first: arrivals.latency(options.warm_up, options.warm_up + part),
        latency_last: arrivals.latency(options.duration - part, options.duration),
    };
    stack.stop().await?;
    Ok(report)
}

/// Samples memory and disk until the end of the run.
async fn watch(
    options: &SoakOptions,
    arrivals: &Arrivals,
    memory: &mut [Usage],
    disk: &mut [Usage],
    started: Instant,
) -> anyhow::Result<()> {
    let mut told = Instant::now();
    while started.elapsed() < options.duration {
        let at = started.elapsed();
        memory.iter_mut().chain(disk.iter_mut()).try_for_each(|usage| usage.sample(at))?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(options, arrivals, memory.iter().chain(disk.iter()), at);
        }
        tokio::time::sleep(SAMPLE_EVERY.min(options.duration.saturating_sub(at))).await;
    }
    Ok(())
}

fn tell<'a>(
    options: &SoakOptions,
    arrivals: &Arrivals,
    usages: impl Iterator<Item = &'a Usage>,
    at: Duration,
) {
    let (minutes, left) = (at.as_secs() / 60, (options.duration - at).as_secs().div_ceil(60));
    let arrived = arrivals.so_far();
    let usages: Vec<String> = usages.map(Usage::line).collect();
    eprintln!(
        "[{:?}, {minutes} min] {} answered, {} waiting; {}; {left} min left",
        options.broker,
        arrived.predicted + arrived.dead,
        arrived.waiting,
        usages.join(", ")
    );
}

/// Waits until every record has its answer; gives up when nothing has arrived for a while.
async fn drain(arrivals: &Arrivals) -> anyhow::Result<()> {
    let mut last = (arrivals.so_far(), Instant::now());
    while last.0.waiting > 0 && last.1.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = arrivals.so_far();
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(())
}

/// The records of a run and their producer.
struct Load {
    feed: Feed,
    producer: FutureProducer,
    prompts: Vec<String>,
    prompts_topic: String,
    prefix: unprompt_schemas::topics::Prefix,
}

impl Load {
    /// Draws the prompts, and publishes one to learn the space of the vectors.
    async fn new(stack: &Stack, options: &SoakOptions) -> anyhow::Result<Self> {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &stack.kafka.brokers)
            .set("client.id", "soak")
            .set("enable.idempotence", "true")
            .set("message.max.bytes", crate::feeder::MAX_BYTES)
            // A broker that is away for minutes shows in the latency, and does not end the run.
            .set("message.timeout.ms", "0")
            .create()?;
        let prompts = prompts(&options.binary, options.seed)?;
        let prefix = stack.kafka.prefix.clone();
        let prompts_topic = prefix.name(Topic::Prompts);
        let space = VectorSpace { model: String::new(), dims: 0 };
        let feed = Feed { seed: options.seed, broker: options.broker, space };
        let mut load = Self { feed, producer, prompts, prompts_topic, prefix };
        load.prompt(0).await?;
        load.feed.space = space_of(stack).await?;
        Ok(load)
    }

    /// Publishes records and prompts at their rates until the end of the run; returns their
    /// numbers.
    async fn publish(
        &self,
        options: &SoakOptions,
        arrivals: &Arrivals,
        started: Instant,
    ) -> anyhow::Result<(usize, usize)> {
        let (mut records, mut prompts) = (0, 0);
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        while started.elapsed() < options.duration {
            clock.tick().await;
            let due = (started.elapsed().as_secs_f64() * options.rate) as usize;
            for number in records..due {
                let mut record = self.feed.record(number);
                // Retention would delete a record with the time of 1970 before it is read.
                record.timestamp_ms = None;
                arrivals.expect(number);
                send(&self.producer, &self.prefix, &record).await?;
            }
            records = records.max(due);
            if started.elapsed() > PROMPT_EVERY * prompts as u32 {
                self.prompt(prompts).await?;
                prompts += 1;
            }
        }
        Ok((records, prompts))
    }

    /// Publishes a prompt that asks for one picture.
    async fn prompt(&self, number: usize) -> anyhow::Result<()> {
        let text = self.prompts[number % self.prompts.len()].clone();
        let prompt = Prompt { text, source: "soak".into(), seeds: vec![number as i64], ..Prompt::default() };
        let value = Codec::single_object().encode(&self.prompts_topic, &prompt)?;
        let key = prompt.id().to_string();
        let record = FutureRecord::to(&self.prompts_topic).key(&key).payload(&value);
        let sent = self.producer.send(record, Timeout::After(PATIENCE)).await;
        sent.map(drop).map_err(|(error, _)| error).context("a prompt is published")
    }
}

fn prompts(binary: &Path, seed: u64) -> anyhow::Result<Vec<String>> {
    let sample = ["prompts", "sample", "-n", &PROMPTS.to_string(), "--seed", &seed.to_string()];
    let sampled = Command::new(binary).args(sample).stderr(Stdio::inherit()).output()?;
    ensure!(sampled.status.success(), "prompts could not be sampled");
    Ok(String::from_utf8(sampled.stdout)?.lines().map(str::to_owned).collect())
}

/// The space of the vectors, of the first prompt that was embedded.
async fn space_of(stack: &Stack) -> anyhow::Result<VectorSpace> {
    let asked = Instant::now();
    loop {
        let mut clip = None;
        let take = |prompt: PromptEmbedding| clip = Some(prompt.clip);
        read_records(&stack.kafka, &Codec::single_object(), take).await?;
        if let Some(NamedVector { model, values }) = clip {
            return Ok(VectorSpace { model, dims: values.len() });
        }
        ensure!(asked.elapsed() < PATIENCE, "no prompt is embedded within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
