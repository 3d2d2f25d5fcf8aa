//! Exactly once on Apache Kafka: whatever happens in between, readers of committed records
//! see each output once.

use std::time::Duration;

use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::config::Delivery;
use unprompt_stream::{KafkaConfig, Profile, RunnerConfig, StreamError, ensure_topics};
use unprompt_test_kafka::Kafka;

use crate::support::*;

const BROKERS: &str = "UNPROMPT_TEST_BROKERS";
const PREFIX: &str = "UNPROMPT_TEST_PREFIX";
const RECORDS: usize = 1_500;

/// A group that soon notices when a member joins, leaves or dies.
/// UNPROMPT_TEST_DEBUG=cgrp,fetch,topic makes librdkafka log more.
fn quick(mut kafka: KafkaConfig, session_ms: u32) -> KafkaConfig {
    kafka.properties.insert("session.timeout.ms".into(), session_ms.to_string().as_str().into());
    kafka.properties.insert("heartbeat.interval.ms".into(), "500".into());
    if let Ok(contexts) = std::env::var("UNPROMPT_TEST_DEBUG") {
        kafka.properties.insert("debug".into(), contexts.as_str().into());
    }
    kafka
}

/// [`quick`], with an instance name that outlives a restart.
fn named(kafka: KafkaConfig, instance: &str) -> KafkaConfig {
    KafkaConfig { instance: Some(instance.to_owned()), ..quick(kafka, 2_000) }
}

/// A run with small batches and transactions, so that a kill finds some open.
fn slow(kafka: &KafkaConfig) -> RunningStage {
    let config = RunnerConfig { batch_records: 5, transaction_timeout_ms: 4_000, ..RunnerConfig::default() };
    RunningStage::start(kafka, config, |batch| {
        std::thread::sleep(Duration::from_millis(10));
        Ok(copies(batch))
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by the test below, in a process of its own"]
async fn the_process_that_is_killed() {
    let prefix = Prefix::new(&std::env::var(PREFIX).unwrap()).unwrap();
    let embedded = KafkaConfig::embedded(std::env::var(BROKERS).unwrap());
    let kafka = KafkaConfig { prefix, profile: Profile::Kafka, ..embedded };
    let run = slow(&named(kafka, "killed"));
    run.ready().await;
    println!("it works");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_killed_again_and_again_lose_and_repeat_nothing() {
    let fixture = Fixture::on_apache_kafka().await;
    let kafka = fixture.kafka();
    publish(&kafka, 0..RECORDS).await;
    let mut struck = 0;
    for round in 0..4 {
        let mut child = this_binary("exactly_once::the_process_that_is_killed")
            .env(BROKERS, &kafka.brokers)
            .env(PREFIX, kafka.prefix.as_str())
            .spawn()
            .unwrap();
        wait_until_it_says(&mut child, "it works");
        tokio::time::sleep(Duration::from_millis(100 + 170 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let out = all(&kafka, Topic::ImageEmbeddings).await.len();
        struck += usize::from((1..RECORDS).contains(&out));
    }
    assert!(struck > 1, "the kills struck before or after the work; the test proved nothing");
    let run = RunningStage::copying(&named(kafka.clone(), "killed"));
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..RECORDS).await;
    run.stop().await;
    let out = all(&kafka, Topic::ImageEmbeddings).await;
    assert_exactly_once(&out, 0..RECORDS);
    assert_ordered_by_key(&out);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_come_and_go_in_the_middle_lose_and_repeat_nothing() {
    let fixture = Fixture::on_apache_kafka().await;
    let kafka = quick(fixture.kafka(), 10_000);
    let staying = slow(&kafka);
    for round in 0..3 {
        publish(&kafka, round * RECORDS..(round + 1) * RECORDS).await;
        let leaving = slow(&kafka);
        leaving.ready().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        leaving.stop().await;
        let dying = slow(&kafka);
        dying.ready().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        dying.abort();
    }
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..3 * RECORDS).await;
    staying.stop().await;
    assert_exactly_once(&all(&kafka, Topic::ImageEmbeddings).await, 0..3 * RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_same_instance_name_fences_the_first() {
    let fixture = Fixture::on_apache_kafka().await;
    let kafka = KafkaConfig { instance: Some("twice".into()), ..quick(fixture.kafka(), 10_000) };
    publish(&kafka, 0..RECORDS).await;
    let zombie = slow(&kafka);
    zombie.ready().await;
    take(&kafka, Topic::ImageEmbeddings, 20).await;
    let successor = slow(&kafka);
    let error = zombie.failure().await;
    assert!(matches!(error, StreamError::Fenced { .. }), "{error}");
    assert!(error.to_string().contains("unprompt-tested-twice"), "{error}");
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..RECORDS).await;
    successor.stop().await;
    assert_exactly_once(&all(&kafka, Topic::ImageEmbeddings).await, 0..RECORDS);
}

/// Stops the broker in the middle of the work with `go`, and starts it again.
async fn broker_gone_in_the_middle(go: fn(&mut Kafka)) {
    let mut broker = tokio::task::spawn_blocking(Kafka::start).await.unwrap();
    let kafka = KafkaConfig { profile: Profile::Kafka, ..KafkaConfig::embedded(broker.brokers()) };
    let kafka = quick(kafka, 10_000);
    ensure_topics(&kafka).await.unwrap();
    publish(&kafka, 0..RECORDS).await;
    let run = slow(&kafka);
    take(&kafka, Topic::ImageEmbeddings, 100).await;
    let before = all(&kafka, Topic::ImageEmbeddings).await.len();
    assert!(before < RECORDS / 2, "the work is nearly over; the test would prove nothing");
    tokio::task::block_in_place(|| {
        go(&mut broker);
        broker.start_again();
    });
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..RECORDS).await;
    assert!(run.health.is_live());
    run.stop().await;
    assert_exactly_once(&all(&kafka, Topic::ImageEmbeddings).await, 0..RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_costs_nothing_but_time() {
    broker_gone_in_the_middle(Kafka::kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_stopped_costs_nothing_but_time() {
    broker_gone_in_the_middle(Kafka::stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_transactions_is_refused_with_advice() {
    let fixture = Fixture::start().await;
    let config = RunnerConfig { delivery: Delivery::ExactlyOnce, ..RunnerConfig::default() };
    let error = RunningStage::start(&fixture.kafka(), config, |batch| Ok(copies(batch))).failure().await;
    assert!(matches!(error, StreamError::NoTransactions { .. }), "{error}");
    assert!(error.to_string().contains("at-least-once"), "{error}");
}
