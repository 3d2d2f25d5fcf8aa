//! Records per second: how fast a contender drains a full topic.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use unprompt_stream::{KafkaConfig, OutputRecord, Publisher, Start, Tail};
use unprompt_test_kafka::Kafka;

use super::contender::{Contender, Who};
use super::{FROM, TO};

/// The shares of the records between which the time is measured; the first records warm the
/// contender up.
const MEASURED: (f64, f64) = (0.25, 0.95);
/// The minimum measured time: the broker's clock has a resolution of milliseconds.
const LEAST_MS: i64 = 200;
/// A contender without output for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fills the input topic of all contenders.
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

/// Configures the output topic so that the broker stamps records with the time of appending.
pub fn stamp_by_broker(kafka: &KafkaConfig) -> anyhow::Result<()> {
    let topic = kafka.prefix.name(TO);
    let set = Kafka::tool(
        "kafka.admin.ConfigCommand",
        &[
            "--bootstrap-server",
            &kafka.brokers,
            "--alter",
            "--entity-type",
            "topics",
            "--entity-name",
            &topic,
            "--add-config",
            "message.timestamp.type=LogAppendTime",
        ],
    );
    ensure!(set.status.success(), "{topic}: {}", String::from_utf8_lossy(&set.stderr));
    Ok(())
}

/// One contender's records per second over `count` waiting records, by the times at which the
/// broker appended its outputs.
pub async fn rate(
    who: Who,
    kafka: &KafkaConfig,
    group: &str,
    streams: &Path,
    count: usize,
) -> anyhow::Result<f64> {
    let mut outputs = Tail::new(kafka, &[TO], Start::End).await?;
    let mut contender = Contender::start(who, kafka, group, streams)?;
    let mut appended = Vec::with_capacity(count);
    while appended.len() < count {
        let next = tokio::time::timeout(PATIENCE, outputs.next()).await;
        ensure!(contender.is_running()?, "{who:?} ended by itself");
        appended.push(
            next.with_context(|| format!("{who:?} is stuck at {} of {count}", appended.len()))??.timestamp_ms,
        );
    }
    drop(contender);
    appended.sort_unstable();
    let at = |share: f64| (count as f64 * share) as usize;
    let (from, until) = (at(MEASURED.0), at(MEASURED.1));
    let ms = appended[until] - appended[from];
    ensure!(ms >= LEAST_MS, "{who:?} took {ms} ms for {} records: too few to measure by", until - from);
    Ok((until - from) as f64 * 1e3 / ms as f64)
}
