//! A graceful stop finishes, commits and leaves: the next start resumes where it ended
//! and repeats nothing.

use std::time::{Duration, Instant};

use unprompt_schemas::topics::Topic;
use unprompt_stream::RunnerConfig;

use crate::support::*;

fn slow(kafka: &unprompt_stream::KafkaConfig) -> RunningStage {
    let config = RunnerConfig { batch_records: 20, ..RunnerConfig::default() };
    RunningStage::start(kafka, config, |batch| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(copies(batch))
    })
}

async fn graceful_stops_in_the_middle_lose_and_repeat_nothing(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..2_000).await;
    let mut done = 0;
    for wanted in [200, 700, 2_000] {
        let run = slow(&kafka);
        take(&kafka, Topic::ImageEmbeddings, wanted).await;
        done += run.stop().await.records_in;
    }
    let out = all(&kafka, Topic::ImageEmbeddings).await;
    assert_exactly_once(&out, 0..2_000);
    assert_ordered_by_key(&out);
    assert_eq!(done, 2_000);
}

async fn a_new_member_need_not_wait_for_one_that_left(fixture: Fixture) {
    let kafka = fixture.kafka();
    let run = RunningStage::copying(&kafka);
    run.ready().await;
    run.stop().await;
    let started = Instant::now();
    let run = RunningStage::copying(&kafka);
    run.ready().await;
    assert!(started.elapsed() < Duration::from_secs(5), "joining took {:?}", started.elapsed());
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_stops_cleanly_before_kafka_answers() {
    let nobody = unprompt_stream::KafkaConfig::embedded("127.0.0.1:1");
    let run = RunningStage::copying(&nobody);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(run.stop().await.records_in, 0);
}

async fn a_run_that_is_dropped_in_the_middle_loses_nothing(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..1_000).await;
    let run = slow(&kafka);
    take(&kafka, Topic::ImageEmbeddings, 200).await;
    run.abort();
    let run = RunningStage::copying(&kafka);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..1_000).await;
    run.stop().await;
    fixture.assert_promise(&all(&kafka, Topic::ImageEmbeddings).await, 0..1_000);
}

on_both! {
    graceful_stops_in_the_middle_lose_and_repeat_nothing,
    a_new_member_need_not_wait_for_one_that_left,
    a_run_that_is_dropped_in_the_middle_loses_nothing,
}
