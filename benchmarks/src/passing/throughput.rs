//! Records a second: how fast a contender works a full topic off, by where the topic it writes ends.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use unprompt_stream::{KafkaConfig, OutputRecord, Publisher, properties};

use super::contender::{Contender, Who};
use super::{FROM, TO};

/// The share of the records that warms a contender up, and the share at which its time is taken.
const MEASURED: (f64, f64) = (0.25, 0.95);
const LOOK: Duration = Duration::from_millis(10);
const CALL: Duration = Duration::from_secs(10);
/// A contender that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// Fills the topic that all contenders read.
pub async fn fill(kafka: &KafkaConfig, count: usize, bytes: usize) -> anyhow::Result<()> {
    let publisher = Publisher::new(kafka)?;
    let record = |at: usize| OutputRecord {
        topic: FROM,
        key: Some((at as u64).to_be_bytes().to_vec()),
        value: Some(vec![at as u8; bytes]),
        headers: Vec::new(),
    };
    publisher.publish_many((0..count).map(record)).await?;
    Ok(())
}

/// Watches where the written topic ends for readers of committed records.
struct Watch {
    consumer: BaseConsumer,
    topic: String,
    partitions: i32,
}

impl Watch {
    pub fn new(kafka: &KafkaConfig) -> anyhow::Result<Self> {
        let config: ClientConfig = properties::consumer(kafka, "watch").into_iter().collect();
        let consumer = BaseConsumer::from_config(&config)?;
        Ok(Self { consumer, topic: kafka.prefix.name(TO), partitions: TO.spec().partitions })
    }

    fn end(&self) -> anyhow::Result<i64> {
        let ends = (0..self.partitions)
            .map(|partition| Ok(self.consumer.fetch_watermarks(&self.topic, partition, CALL)?.1));
        ends.sum()
    }
}

/// Records a second of one contender over `count` records that wait for it.
pub fn rate(
    who: Who,
    kafka: &KafkaConfig,
    group: &str,
    streams: &PathBuf,
    count: usize,
) -> anyhow::Result<f64> {
    let watch = Watch::new(kafka)?;
    let begin = watch.end()?;
    let mut contender = Contender::start(who, kafka, group, streams)?;
    let crossed = |share: f64, contender: &mut Contender| -> anyhow::Result<(Instant, i64)> {
        let (since, wanted) = (Instant::now(), (count as f64 * share) as i64);
        while since.elapsed() < PATIENCE {
            let done = watch.end()? - begin;
            if done >= wanted {
                return Ok((Instant::now(), done));
            }
            anyhow::ensure!(contender.is_running()?, "{who:?} ended by itself");
            std::thread::sleep(LOOK);
        }
        bail!("{who:?} did not pass {wanted} records within {PATIENCE:?}")
    };
    let (from, at_first) = crossed(MEASURED.0, &mut contender)?;
    let (until, at_last) = crossed(MEASURED.1, &mut contender)?;
    let seconds = until.duration_since(from).as_secs_f64();
    Some((at_last - at_first) as f64 / seconds).filter(|rate| rate.is_finite()).context("too few records")
}
