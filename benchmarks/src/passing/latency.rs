//! The latency that the runner adds to a record: the time between a plain consumer seeing the input
//! and one seeing the output.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, KafkaConfig, OutputRecord, Publisher, Start, Tail};

use super::{FROM, TO, ours};

/// Records per second: far below the limit, so that nothing queues.
const A_SECOND: u32 = 100;
const RECORDS: usize = 2_000;
/// The first records, not measured: connections are opened and code warms up.
const WARM_UP: usize = 200;
const BYTES: usize = 1_000;

/// The milliseconds that the runner added to each record.
pub async fn added_ms(kafka: &KafkaConfig, group: &str, transactional: bool) -> anyhow::Result<Vec<f64>> {
    let stop = CancellationToken::new();
    let (of_runner, name, until) = (kafka.clone(), group.to_owned(), stop.clone());
    let running = tokio::spawn(async move { ours::run(&of_runner, &name, transactional, until).await });
    let (input, output) = (seen(kafka, FROM, group).await?, seen(kafka, TO, group).await?);
    publish(kafka, group).await?;
    let (input, output) = (input.await??, output.await??);
    stop.cancel();
    running.await??;
    let added = output
        .iter()
        .filter(|(at, _)| **at >= WARM_UP)
        .filter_map(|(at, seen)| Some(seen.saturating_duration_since(*input.get(at)?).as_secs_f64() * 1e3));
    Ok(added.collect())
}

type Seen = HashMap<usize, Instant>;

/// The times at which a plain consumer of committed records saw each number.
async fn seen(
    kafka: &KafkaConfig,
    topic: Topic,
    group: &str,
) -> anyhow::Result<tokio::task::JoinHandle<anyhow::Result<Seen>>> {
    let mut tail = Tail::new(kafka, &[topic], Start::End).await?;
    let group = group.to_owned();
    Ok(tokio::spawn(async move {
        let mut seen = Seen::new();
        while seen.len() < RECORDS {
            let record = tail.next().await?;
            if let Some(number) = number(&record, &group) {
                seen.insert(number, Instant::now());
            }
        }
        Ok(seen)
    }))
}

fn number(record: &InputRecord, group: &str) -> Option<usize> {
    let value = std::str::from_utf8(record.value.as_deref()?).ok()?;
    value.trim_end().strip_prefix(group)?.trim().parse().ok()
}

async fn publish(kafka: &KafkaConfig, group: &str) -> anyhow::Result<()> {
    let publisher = Publisher::new(kafka)?;
    let mut clock = tokio::time::interval(Duration::from_secs(1) / A_SECOND);
    let mut under_way = tokio::task::JoinSet::new();
    for number in 0..RECORDS {
        clock.tick().await;
        let record = OutputRecord {
            topic: FROM,
            key: Some((number as u64).to_be_bytes().to_vec()),
            value: Some(format!("{:<BYTES$}", format!("{group} {number}")).into_bytes()),
            headers: Vec::new(),
        };
        let publisher = publisher.clone();
        under_way.spawn(async move { publisher.publish(record).await });
    }
    while let Some(published) = under_way.join_next().await {
        published??;
    }
    Ok(())
}
