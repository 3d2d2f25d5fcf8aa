//! The runner beside a plain rdkafka loop and Kafka Streams, on its own Apache Kafka: rows of
//! reports/bench.json.

use std::io::Write as _;
use std::path::Path;

use anyhow::bail;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use unprompt_benchmarks::passing::contender::Who;
use unprompt_benchmarks::passing::{bare, latency, ours, quantile, row, throughput};
use unprompt_schemas::topics::Prefix;
use unprompt_stream::{KafkaConfig, Profile, ensure_topics};
use unprompt_test_kafka::Kafka;

/// Contenders take turns for this many rounds, so that other load on the machine favours none; the
/// median counts.
const ROUNDS: usize = 3;
const SIZES: [(&str, usize, usize); 2] = [("1 kB", 200_000, 1_000), ("100 kB", 4_000, 100_000)];
const WHO: [Who; 5] = [
    Who::Ours { transactional: false },
    Who::Bare { transactional: false },
    Who::Ours { transactional: true },
    Who::Bare { transactional: true },
    Who::Streams,
];

/// `measure STREAMS` prints the rows; the folder STREAMS holds Kafka Streams' jars and
/// PassThrough.class. `pass ours|bare BROKERS PREFIX GROUP [--transactional]` runs a contender.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["measure", streams] => measure(Path::new(streams)).await,
        ["pass", who, brokers, prefix, group, flags @ ..] => {
            let kafka = kafka(brokers, prefix)?;
            pass(who, &kafka, group, !flags.is_empty()).await
        }
        _ => bail!("usage: passing measure STREAMS"),
    }
}

fn kafka(brokers: &str, prefix: &str) -> anyhow::Result<KafkaConfig> {
    let prefix = Prefix::new(prefix)?;
    Ok(KafkaConfig { prefix, profile: Profile::Kafka, ..KafkaConfig::embedded(brokers) })
}

async fn pass(who: &str, kafka: &KafkaConfig, group: &str, transactional: bool) -> anyhow::Result<()> {
    match who {
        "ours" => ours::run(kafka, group, transactional, CancellationToken::new()).await,
        _ => tokio::task::block_in_place(|| bare::run(kafka, group, transactional)),
    }
}

async fn measure(streams: &Path) -> anyhow::Result<()> {
    let broker = tokio::task::spawn_blocking(Kafka::start).await?;
    let mut rows = Vec::new();
    for (name, count, bytes) in SIZES {
        let kafka = kafka(&broker.brokers(), &format!("of-{bytes}."))?;
        ensure_topics(&kafka).await?;
        throughput::fill(&kafka, count, bytes).await?;
        tokio::task::block_in_place(|| throughput::stamp_by_broker(&kafka))?;
        rows.extend(compare(&kafka, streams, name, count).await?);
    }
    let kafka = kafka(&broker.brokers(), "latency.")?;
    ensure_topics(&kafka).await?;
    for (how, transactional) in [("at least once", false), ("exactly once", true)] {
        let mut added = latency::added_ms(&kafka, &how.replace(' ', "-"), transactional).await?;
        rows.push(added_row(how, "p50", quantile(&mut added, 0.5), 10.0));
        rows.push(added_row(how, "p99", quantile(&mut added, 0.99), f64::NAN));
    }
    // One line for the calling script.
    Ok(writeln!(std::io::stdout(), "{}", Value::Array(rows))?)
}

fn added_row(how: &str, share: &str, ms: f64, target: f64) -> Value {
    let peer_name = if target.is_nan() { "no target" } else { "the target" };
    row(&format!("runner on Kafka, {how}, added latency, {share}"), "ms", ms, target, peer_name)
}

async fn compare(
    kafka: &KafkaConfig,
    streams: &Path,
    name: &str,
    count: usize,
) -> anyhow::Result<Vec<Value>> {
    let mut rates = [const { Vec::new() }; WHO.len()];
    for round in 0..ROUNDS {
        for (at, who) in WHO.into_iter().enumerate() {
            let rate = throughput::rate(who, kafka, &format!("round-{round}-{at}"), streams, count).await?;
            eprintln!("{name} records, {who:?}: {rate:.0} records/s");
            rates[at].push(rate);
        }
    }
    let [ours, bare, ours_once, bare_once, streams] = rates.map(|mut rates| quantile(&mut rates, 0.5));
    let row = |how: &str, ours, peer, peer_name| {
        row(&format!("runner on Kafka, {name} records, {how}"), "records/s", ours, peer, peer_name)
    };
    Ok(vec![
        row("at least once", ours, bare, "bare rdkafka loop"),
        row("exactly once", ours_once, bare_once, "bare rdkafka loop in transactions"),
        row("exactly once", ours_once, streams, "Kafka Streams (exactly_once_v2)"),
    ])
}
