//! A killed process loses nothing: what it had acknowledged is there, and the rest
//! is processed again.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, RunnerConfig, ensure_topics};

use crate::support::*;

const DATA_DIR: &str = "UNPROMPT_TEST_DATA_DIR";
const RECORDS: usize = 1_000;

/// Runs broker, producer and stage in one process, as `unprompt up` does.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by the test below, in a process of its own"]
async fn the_process_that_is_killed() {
    let data_dir = std::env::var(DATA_DIR).unwrap();
    let broker = EmbeddedBroker::start(Path::new(&data_dir), 0).await.unwrap();
    let kafka = KafkaConfig::embedded(broker.brokers());
    ensure_topics(&kafka).await.unwrap();
    publish(&kafka, 0..RECORDS).await;
    let config = RunnerConfig { batch_records: 10, ..RunnerConfig::default() };
    let _run = RunningStage::start(&kafka, config, |batch| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(copies(batch))
    });
    take(&kafka, Topic::ImageEmbeddings, RECORDS / 4).await;
    println!("half way");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_next_run_joins_quickly_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let mut child =
        this_binary("hard_stop::the_process_that_is_killed").env(DATA_DIR, dir.path()).spawn().unwrap();
    wait_until_it_says(&mut child, "half way");
    child.kill().unwrap();
    child.wait().unwrap();

    let started = Instant::now();
    let broker = EmbeddedBroker::start(dir.path(), 0).await.unwrap();
    let kafka = KafkaConfig::embedded(broker.brokers());
    let before = all(&kafka, Topic::ImageEmbeddings).await.len();
    assert!((RECORDS / 4..RECORDS).contains(&before), "{before} records were out before the kill");
    let run = RunningStage::copying(&kafka);
    run.ready().await;
    let joined = started.elapsed();
    assert!(joined < Duration::from_secs(8), "the dead process's membership held the group for {joined:?}");

    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..RECORDS).await;
    let summary = run.stop().await;
    assert!((summary.records_in as usize) < RECORDS, "what was committed before the kill was done again");
    broker.stop().await.unwrap();
}
