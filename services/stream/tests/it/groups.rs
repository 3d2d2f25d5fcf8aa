//! Consumer groups: a slow stage keeps its partitions, and two runners share them.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::admin::AdminOptions;
use unprompt_schemas::topics::Topic;
use unprompt_stream::config::{Delivery, LostOffsets};
use unprompt_stream::{KafkaConfig, RunnerConfig, StreamError};

use crate::support::*;

async fn a_stage_slower_than_the_longest_poll_interval_keeps_its_group(fixture: Fixture) {
    let mut kafka = fixture.kafka();
    kafka.properties.insert("session.timeout.ms".into(), "2000".into());
    kafka.properties.insert("heartbeat.interval.ms".into(), "500".into());
    kafka.properties.insert("max.poll.interval.ms".into(), "2500".into());
    publish(&kafka, 0..40).await;
    let config = RunnerConfig { batch_records: 20, bytes_in_flight: 4_000, ..RunnerConfig::default() };
    let mut calls = 0;
    let run = RunningStage::start(&kafka, config, move |batch| {
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

fn watched(kafka: &KafkaConfig) -> (RunningStage, Partitions) {
    let seen = Partitions::default();
    let noted = seen.clone();
    let run = RunningStage::start(kafka, RunnerConfig::default(), move |batch| {
        noted.lock().extend(batch.iter().map(|record| record.partition));
        Ok(copies(batch))
    });
    (run, seen)
}

async fn two_runners_share_the_partitions_and_a_leaver_returns_its_own(fixture: Fixture) {
    let kafka = fixture.kafka();
    let (first, of_first) = watched(&kafka);
    first.ready().await;
    publish(&kafka, 0..200).await;
    take(&kafka, Topic::ImageEmbeddings, 200).await;
    assert_eq!(of_first.lock().len(), 4, "one runner has all partitions");

    let (second, of_second) = watched(&kafka);
    second.ready().await;
    let mut published = 200;
    while of_second.lock().is_empty() {
        publish(&kafka, published..published + 100).await;
        published += 100;
        take(&kafka, Topic::ImageEmbeddings, published).await;
        assert!(published < 20_000, "the second runner never got a partition");
    }
    of_first.lock().clear();
    of_second.lock().clear();
    publish(&kafka, published..published + 400).await;
    published += 400;
    take(&kafka, Topic::ImageEmbeddings, published).await;
    let (one, two) = (of_first.lock().clone(), of_second.lock().clone());
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

/// A runner whose stage takes everything at once and works on it until the gate opens.
struct Gated {
    run: RunningStage,
    at_work: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
}

fn gated(kafka: &KafkaConfig, revoke_drain_ms: u64) -> Gated {
    let (at_work, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (entered, gate) = (at_work.clone(), open.clone());
    let config =
        RunnerConfig { batch_records: 200, batch_time_ms: 2_000, revoke_drain_ms, ..RunnerConfig::default() };
    let run = RunningStage::start(kafka, config, move |batch| {
        entered.store(true, Ordering::Relaxed);
        while !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(copies(batch))
    });
    Gated { run, at_work, open }
}

async fn a_batch_longer_than_the_drain_limit_does_not_delay_a_revoked_partition(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..200).await;
    let first = gated(&kafka, 300);
    eventually("the first runner is at work", || first.at_work.load(Ordering::Relaxed)).await;
    let second = RunningStage::copying(&kafka);
    let early = take(&kafka, Topic::ImageEmbeddings, 50).await;
    assert_eq!(counts(&early).len(), 50, "the second runner takes over records that the first one still has");
    first.open.store(true, Ordering::Relaxed);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..200).await;
    first.run.stop().await;
    second.stop().await;
    fixture.assert_promise(&all(&kafka, Topic::ImageEmbeddings).await, 0..200);
}

async fn a_batch_within_the_drain_limit_is_finished_before_its_partition_is_revoked(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..200).await;
    let first = gated(&kafka, 20_000);
    eventually("the first runner is at work", || first.at_work.load(Ordering::Relaxed)).await;
    let (second, _) = watched(&kafka);
    second.ready().await;
    first.open.store(true, Ordering::Relaxed);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..200).await;
    first.run.stop().await;
    second.stop().await;
    assert_exactly_once(&all(&kafka, Topic::ImageEmbeddings).await, 0..200);
}

/// A pause ends when half of the bytes in flight are done. Partitions that are assigned before that
/// must not end it for the earlier ones, which would then never be resumed.
async fn partitions_assigned_during_a_pause_leave_no_partition_paused(fixture: Fixture) {
    let kafka = fixture.kafka();
    let (allowed, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, batches) = (allowed.clone(), done.clone());
    let config = RunnerConfig { batch_records: 10, bytes_in_flight: 60_000, ..RunnerConfig::default() };
    let staying = RunningStage::start(&kafka, config, move |batch| {
        while gate.load(Ordering::Relaxed) <= batches.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        batches.fetch_add(1, Ordering::Relaxed);
        Ok(copies(batch))
    });
    staying.ready().await;
    let leaving = RunningStage::copying(&kafka);
    leaving.ready().await;
    // About 200 of them reach the limit in flight, and the pause begins.
    publish(&kafka, 0..1_000).await;
    take(&kafka, Topic::ImageEmbeddings, 400).await;
    leaving.stop().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Less than half of them are processed, and then records of the leaver's partitions arrive.
    allowed.store(6, Ordering::Relaxed);
    eventually("six batches are done", || done.load(Ordering::Relaxed) == 6).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&kafka, 1_000..1_040).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    allowed.store(usize::MAX, Ordering::Relaxed);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..1_040).await;
    staying.stop().await;
    fixture.assert_promise(&all(&kafka, Topic::ImageEmbeddings).await, 0..1_040);
}

/// librdkafka keeps a pause through a partition's loss and return.
async fn partitions_lost_during_a_pause_are_read_again_after_reassignment(fixture: Fixture) {
    let kafka = fixture.kafka();
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let config = RunnerConfig {
        batch_records: 10,
        bytes_in_flight: 60_000,
        revoke_drain_ms: 200,
        ..RunnerConfig::default()
    };
    let staying = RunningStage::start(&kafka, config, move |batch| {
        while !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(copies(batch))
    });
    staying.ready().await;
    publish(&kafka, 0..1_000).await;
    // The runner reaches its limit in flight from all partitions and pauses them; then another
    // runner takes over two of them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let passing = RunningStage::copying(&kafka);
    take(&kafka, Topic::ImageEmbeddings, 400).await;
    open.store(true, Ordering::Relaxed);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..1_000).await;
    passing.stop().await;
    publish(&kafka, 1_000..1_400).await;
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..1_400).await;
    staying.stop().await;
    fixture.assert_promise(&all(&kafka, Topic::ImageEmbeddings).await, 0..1_400);
}

async fn services_with_different_prefixes_do_not_share_records(fixture: Fixture) {
    let plain = fixture.kafka();
    let mut other = plain.clone();
    other.prefix = unprompt_schemas::topics::Prefix::new("team-a.").unwrap();
    unprompt_stream::ensure_topics(&other).await.unwrap();
    publish(&other, 0..10).await;
    publish(&plain, 100..110).await;
    let (run, other_run) = (RunningStage::copying(&plain), RunningStage::copying(&other));
    assert_exactly_once(&take(&plain, Topic::ImageEmbeddings, 10).await, 100..110);
    let out = take(&other, Topic::ImageEmbeddings, 10).await;
    assert_exactly_once(&out, 0..10);
    assert_eq!(out[0].topic_name, "team-a.image-embeddings.v1");
    assert_eq!(out[0].topic_name_of(Topic::Predictions), "team-a.predictions.v1");
    run.stop().await;
    other_run.stop().await;
}

/// Makes the broker forget a group's offsets, as it does with those of an idle group.
async fn forget_offsets(kafka: &KafkaConfig) {
    let (admin, group) = (admin(kafka), kafka.group(NAME));
    let deleted = || admin.delete_groups(&[&group], &AdminOptions::new());
    // A member that has just left may still be counted.
    for _ in 0..50 {
        if deleted().await.unwrap()[0].is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the group {group} cannot be deleted: {:?}", deleted().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_lost_its_offsets_follows_the_lost_offsets_setting() {
    let kafka = Fixture::on_apache_kafka().await.kafka();
    publish(&kafka, 0..20).await;
    let run = RunningStage::copying(&kafka);
    take(&kafka, Topic::ImageEmbeddings, 20).await;
    run.stop().await;
    forget_offsets(&kafka).await;

    let error = RunningStage::copying(&kafka).failure().await;
    assert!(matches!(error, StreamError::OffsetsLost { .. }), "{error}");
    assert!(error.to_string().contains("--from latest"), "{error}");

    let config = |lost_offsets| RunnerConfig { lost_offsets, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config(LostOffsets::Latest), |batch| Ok(copies(batch)));
    run.ready().await;
    publish(&kafka, 20..25).await;
    let out = take(&kafka, Topic::ImageEmbeddings, 25).await;
    assert_exactly_once(&out, 0..25);
    run.stop().await;
    forget_offsets(&kafka).await;

    let run = RunningStage::start(&kafka, config(LostOffsets::Earliest), |batch| Ok(copies(batch)));
    let out = take(&kafka, Topic::ImageEmbeddings, 50).await;
    run.stop().await;
    assert!(counts(&out).values().all(|count| *count == 2), "everything was written again, once");
    // With its offsets, it resumes as usual.
    let run = RunningStage::copying(&kafka);
    run.ready().await;
    assert_eq!(run.stop().await.records_in, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_killed_before_its_first_commit_reads_everything_again() {
    let kafka = Fixture::on_apache_kafka().await.kafka();
    publish(&kafka, 0..20).await;
    let config = RunnerConfig {
        delivery: Delivery::AtLeastOnce,
        commit_interval_ms: 600_000,
        ..RunnerConfig::default()
    };
    let run = RunningStage::start(&kafka, config.clone(), |batch| Ok(copies(batch)));
    take(&kafka, Topic::ImageEmbeddings, 20).await;
    run.abort();
    let run = RunningStage::start(&kafka, config, |batch| Ok(copies(batch)));
    let out = take(&kafka, Topic::ImageEmbeddings, 40).await;
    assert!(counts(&out).values().all(|count| *count == 2), "everything was written again, once");
    run.stop().await;
}

on_both! {
    a_stage_slower_than_the_longest_poll_interval_keeps_its_group,
    two_runners_share_the_partitions_and_a_leaver_returns_its_own,
    a_batch_longer_than_the_drain_limit_does_not_delay_a_revoked_partition,
    a_batch_within_the_drain_limit_is_finished_before_its_partition_is_revoked,
    partitions_assigned_during_a_pause_leave_no_partition_paused,
    partitions_lost_during_a_pause_are_read_again_after_reassignment,
    services_with_different_prefixes_do_not_share_records,
}
