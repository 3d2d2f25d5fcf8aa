//! The loop that a user would write: one rdkafka loop that consumes, copies and produces, with the
//! same settings as the runner.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use unprompt_stream::{KafkaConfig, RunnerConfig, properties};

use super::{FROM, TO};

const POLL: Duration = Duration::from_millis(10);
const CALL: Duration = Duration::from_secs(30);

/// Runs until it is killed; with transactions, or with a flush before every commit.
pub fn run(kafka: &KafkaConfig, group: &str, transactional: bool) -> anyhow::Result<()> {
    let runner = RunnerConfig::default();
    let consumer = BaseConsumer::from_config(&config(properties::consumer(kafka, group)))?;
    let timeout = Duration::from_millis(runner.transaction_timeout_ms);
    let of_producer = match transactional {
        true => properties::transactional_producer(kafka, group, timeout),
        false => properties::producer(kafka),
    };
    let producer = BaseProducer::from_config(&config(of_producer))?;
    let (from, to) = (kafka.prefix.name(FROM), kafka.prefix.name(TO));
    consumer.subscribe(&[&from])?;
    if transactional {
        producer.init_transactions(CALL)?;
    }
    let interval = Duration::from_millis(runner.commit_interval_ms);
    loop {
        if transactional {
            producer.begin_transaction()?;
        }
        let (started, mut count, mut next) = (Instant::now(), 0, TopicPartitionList::new());
        while count == 0 || (count < runner.transaction_records && started.elapsed() < interval) {
            let Some(message) = consumer.poll(POLL) else { continue };
            let message = message?;
            copy(&producer, &to, &message)?;
            note(&mut next, &message)?;
            count += 1;
        }
        commit(&consumer, &producer, &next, transactional)?;
    }
}

fn config(properties: impl IntoIterator<Item = (String, String)>) -> ClientConfig {
    properties.into_iter().collect()
}

fn copy(producer: &BaseProducer, to: &str, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
    let mut record = BaseRecord::<[u8], [u8]>::to(to);
    record.key = message.key();
    record.payload = message.payload();
    while let Err((error, back)) = producer.send(record) {
        let full = rdkafka::types::RDKafkaErrorCode::QueueFull;
        anyhow::ensure!(error.rdkafka_error_code() == Some(full), "{error}");
        producer.poll(POLL);
        record = back;
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

fn note(next: &mut TopicPartitionList, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
    let offset = Offset::Offset(message.offset() + 1);
    match next.find_partition(message.topic(), message.partition()) {
        Some(_) => next.set_partition_offset(message.topic(), message.partition(), offset)?,
        None => next.add_partition_offset(message.topic(), message.partition(), offset)?,
    }
    Ok(())
}

fn commit(
    consumer: &BaseConsumer,
    producer: &BaseProducer,
    next: &TopicPartitionList,
    transactional: bool,
) -> anyhow::Result<()> {
    if transactional {
        let group = consumer.group_metadata().context("a member has metadata")?;
        producer.send_offsets_to_transaction(next, &group, CALL)?;
        producer.commit_transaction(CALL)?;
    } else {
        producer.flush(CALL)?;
        consumer.commit(next, CommitMode::Async)?;
    }
    Ok(())
}
