//! Consumer groups: a slow stage keeps its partitions, and two runners share them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, RunnerConfig};

use crate::support::*;

async fn a_stage_slower_than_the_longest_poll_interval_keeps_its_group(fixture: Fixture) {
    let mut kafka = fixture.kafka();
    kafka.properties.insert("session.timeout.ms".into(), "2000".into());
    kafka.properties.insert("heartbeat.interval.ms".into(), "500".into());
    kafka.properties.insert("max.poll.interval.ms".into(), "2500".into());
    publish(&kafka, 0..40).await;
    let config = RunnerConfig { batch_records: 20, bytes_in_flight: 4_000, ..RunnerConfig::default() };
    let mut calls = 0;
    let run = Run::start(&kafka, config, move |batch| {
        calls += 1;
        if calls == 1 {
            std::thread::sleep(Duration::from_secs(5));
        }
        Ok(copies(batch))
    });
    let out = take(&kafka, Topic::ImageEmbeddings, 40).await;
    assert_exactly_once(&out, 0..40);
    assert_eq!(run.stop().await.records_in, 40, "a record was processed twice: the group was lost");
    assert_exactly_once(&all(&kafka, Topic::ImageEmbeddings).await, 0..40);
}

type Partitions = Arc<Mutex<BTreeSet<i32>>>;

fn watched(kafka: &KafkaConfig) -> (Run, Partitions) {
    let seen = Partitions::default();
    let noted = seen.clone();
    let run = Run::start(kafka, RunnerConfig::default(), move |batch| {
        noted.lock().unwrap().extend(batch.iter().map(|record| record.partition));
        Ok(copies(batch))
    });
    (run, seen)
}

async fn two_runners_share_the_partitions_and_a_leaver_hands_its_own_back(fixture: Fixture) {
    let kafka = fixture.kafka();
    let (first, of_first) = watched(&kafka);
    first.ready().await;
    publish(&kafka, 0..200).await;
    take(&kafka, Topic::ImageEmbeddings, 200).await;
    assert_eq!(of_first.lock().unwrap().len(), 4, "one runner has all partitions");

    let (second, of_second) = watched(&kafka);
    second.ready().await;
    let mut published = 200;
    while of_second.lock().unwrap().is_empty() {
        publish(&kafka, published..published + 100).await;
        published += 100;
        take(&kafka, Topic::ImageEmbeddings, published).await;
        assert!(published < 20_000, "the second runner never got a partition");
    }
    of_first.lock().unwrap().clear();
    of_second.lock().unwrap().clear();
    publish(&kafka, published..published + 400).await;
    published += 400;
    take(&kafka, Topic::ImageEmbeddings, published).await;
    let (one, two) = (of_first.lock().unwrap().clone(), of_second.lock().unwrap().clone());
    assert_eq!((one.len(), two.len()), (2, 2), "{one:?} and {two:?}");
    assert!(one.is_disjoint(&two), "{one:?} and {two:?}");

    first.stop().await;
    publish(&kafka, published..published + 400).await;
    published += 400;
    take(&kafka, Topic::ImageEmbeddings, published).await;
    second.stop().await;
    let out = all(&kafka, Topic::ImageEmbeddings).await;
    assert_exactly_once(&out, 0..published);
    assert_ordered_by_key(&out);
}

async fn prefixes_keep_worlds_apart(fixture: Fixture) {
    let plain = fixture.kafka();
    let mut other = plain.clone();
    other.prefix = unprompt_schemas::topics::Prefix::new("team-a.").unwrap();
    unprompt_stream::ensure_topics(&other).await.unwrap();
    publish(&other, 0..10).await;
    publish(&plain, 100..110).await;
    let (run, other_run) = (Run::copying(&plain), Run::copying(&other));
    assert_exactly_once(&take(&plain, Topic::ImageEmbeddings, 10).await, 100..110);
    let out = take(&other, Topic::ImageEmbeddings, 10).await;
    assert_exactly_once(&out, 0..10);
    assert_eq!(out[0].topic_name, "team-a.image-embeddings.v1");
    assert_eq!(out[0].topic_name_of(Topic::Predictions), "team-a.predictions.v1");
    run.stop().await;
    other_run.stop().await;
}

on_both! {
    a_stage_slower_than_the_longest_poll_interval_keeps_its_group,
    two_runners_share_the_partitions_and_a_leaver_hands_its_own_back,
    prefixes_keep_worlds_apart,
}
