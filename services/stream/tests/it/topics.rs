//! Topics that are deleted under a running service, or deleted and recreated, and partitions that
//! are younger than the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{
    InputRecord, KafkaConfig, OutputRecord, Publisher, RunnerConfig, TableReader, TopicState, list_topics,
};

use crate::support::*;

/// Creates a topic, unless the service was faster.
async fn create(kafka: &KafkaConfig, topic: Topic) {
    create_with(&admin(kafka), &kafka.prefix.name(topic), topic).await;
}

async fn create_with(admin: &AdminClient<DefaultClientContext>, name: &str, topic: Topic) {
    let new = NewTopic::new(name, topic.spec().partitions, TopicReplication::Fixed(1));
    let created = admin.create_topics(&[new], &AdminOptions::new()).await.unwrap();
    let is_there = matches!(&created[0], Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)));
    assert!(is_there, "{created:?}");
}

/// Deletes a topic and creates it again, over one connection that is open already: between the two
/// a client hardly has the time to ask for the topic.
async fn replace(kafka: &KafkaConfig, topic: Topic) {
    let (admin, name) = (admin(kafka), kafka.prefix.name(topic));
    create_with(&admin, &name, topic).await;
    let deleted = admin.delete_topics(&[&name], &AdminOptions::new()).await.unwrap();
    assert!(deleted[0].is_ok(), "{deleted:?}");
    create_with(&admin, &name, topic).await;
}

/// Waits until the broker's metadata shows a topic with this many partitions.
async fn has_partitions(kafka: &KafkaConfig, topic: Topic, count: usize) {
    let has = |states: Vec<TopicState>| {
        states.iter().any(|state| state.topic == topic && state.partitions == Some(count))
    };
    within("the topic's partitions", async {
        while !list_topics(kafka).await.is_ok_and(has) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// Waits until the service has created a deleted topic again.
async fn created_again(kafka: &KafkaConfig, topic: Topic) {
    has_partitions(kafka, topic, topic.spec().partitions as usize).await;
}

/// Starts a service that has read 60 records, at least four of each partition.
async fn running(kafka: &KafkaConfig) -> RunningStage {
    publish(kafka, 0..60).await;
    let run = RunningStage::copying(kafka);
    take(kafka, Topic::ImageEmbeddings, 60).await;
    run
}

/// Asserts that the records of a new topic come out as promised, after those of the old one.
async fn assert_read(fixture: &Fixture, run: RunningStage, numbers: std::ops::Range<usize>) {
    let kafka = fixture.kafka();
    take_until_complete(&kafka, Topic::ImageEmbeddings, numbers.clone()).await;
    run.stop().await;
    fixture.assert_promise(&all(&kafka, Topic::ImageEmbeddings).await, numbers);
}

async fn a_longer_topic_created_again_at_once_is_read_from_its_first_record(fixture: Fixture) {
    let kafka = fixture.kafka();
    let run = running(&kafka).await;
    replace(&kafka, Topic::Images).await;
    publish(&kafka, 60..300).await;
    assert_read(&fixture, run, 0..300).await;
}

async fn a_topic_created_again_at_once_that_ends_at_the_old_offsets_is_read(fixture: Fixture) {
    let kafka = fixture.kafka();
    let run = running(&kafka).await;
    replace(&kafka, Topic::Images).await;
    let same_keys = |number: usize| OutputRecord { key: numbered(number - 60).key, ..numbered(number) };
    Publisher::new(&kafka).unwrap().publish_many((60..120).map(same_keys)).await.unwrap();
    assert_read(&fixture, run, 0..120).await;
}

async fn a_topic_created_again_later_is_read_from_its_first_record(fixture: Fixture) {
    let kafka = fixture.kafka();
    let run = running(&kafka).await;
    delete_topic(&kafka, Topic::Images).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    create(&kafka, Topic::Images).await;
    publish(&kafka, 60..300).await;
    assert_read(&fixture, run, 0..300).await;
}

async fn a_deleted_input_is_created_again_and_read(fixture: Fixture) {
    let kafka = fixture.kafka();
    let run = running(&kafka).await;
    delete_topic(&kafka, Topic::Images).await;
    created_again(&kafka, Topic::Images).await;
    publish(&kafka, 60..300).await;
    assert_read(&fixture, run, 0..300).await;
}

/// Without the ids, the service would continue at its offset: a shorter topic is detected anyway,
/// but here the new one is longer by the time of the next fetch.
async fn a_topic_that_is_replaced_while_its_partitions_are_paused_is_read_from_its_first_record(
    fixture: Fixture,
) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..1_000).await;
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let config = RunnerConfig { batch_records: 10, bytes_in_flight: 60_000, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, move |batch| {
        while !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(copies(batch))
    });
    run.ready().await;
    // About 200 records reach the limit in flight, and the pause begins.
    tokio::time::sleep(Duration::from_secs(2)).await;
    replace(&kafka, Topic::Images).await;
    publish(&kafka, 1_000..2_500).await;
    open.store(true, Ordering::Relaxed);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 1_000..2_500).await;
    run.stop().await;
    let mut out = all(&kafka, Topic::ImageEmbeddings).await;
    out.retain(|record| number(record) >= 1_000);
    fixture.assert_promise(&out, 1_000..2_500);
}

/// Each round ends in another phase of the service: between two commits, at a commit, while it
/// checks the ids.
async fn a_topic_created_again_and_again_under_load_loses_nothing(fixture: Fixture) {
    let kafka = fixture.kafka();
    let config = RunnerConfig { batch_records: 5, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, |batch| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(copies(batch))
    });
    run.ready().await;
    let mut published = 0;
    for round in 0..4 {
        publish(&kafka, published..published + 100 + 40 * round).await;
        published += 100 + 40 * round;
        take_until_complete(&kafka, Topic::ImageEmbeddings, published - 10..published).await;
        tokio::time::sleep(Duration::from_millis(700 * round as u64)).await;
        // Some of these are in flight when their topic is deleted.
        publish(&kafka, 10_000 * (round + 1)..10_000 * (round + 1) + 50).await;
        replace(&kafka, Topic::Images).await;
    }
    publish(&kafka, published..published + 300).await;
    published += 300;
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..published).await;
    run.stop().await;
    let mut out = all(&kafka, Topic::ImageEmbeddings).await;
    out.retain(|record| number(record) < 10_000);
    fixture.assert_promise(&out, 0..published);
}

async fn two_members_of_a_group_read_a_new_topic_together(fixture: Fixture) {
    let kafka = fixture.kafka();
    let (first, second) = (running(&kafka).await, RunningStage::copying(&kafka));
    second.ready().await;
    publish(&kafka, 60..100).await;
    take(&kafka, Topic::ImageEmbeddings, 100).await;
    replace(&kafka, Topic::Images).await;
    publish(&kafka, 100..400).await;
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..400).await;
    second.stop().await;
    assert_read(&fixture, first, 0..400).await;
}

async fn an_output_created_again_at_once_is_written(fixture: Fixture) {
    let kafka = fixture.kafka();
    let run = running(&kafka).await;
    replace(&kafka, Topic::ImageEmbeddings).await;
    publish(&kafka, 60..120).await;
    assert_read(&fixture, run, 60..120).await;
}

async fn a_deleted_output_is_created_again_and_written(fixture: Fixture) {
    let kafka = fixture.kafka();
    let run = running(&kafka).await;
    delete_topic(&kafka, Topic::ImageEmbeddings).await;
    publish(&kafka, 60..120).await;
    created_again(&kafka, Topic::ImageEmbeddings).await;
    assert_read(&fixture, run, 60..120).await;
}

/// A client of the tested service's group; it does not join it.
fn group_consumer(kafka: &KafkaConfig) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("group.id", kafka.group(NAME)).create().unwrap()
}

fn committed(kafka: &KafkaConfig) -> TopicPartitionList {
    let mut asked = TopicPartitionList::new();
    let partitions = Topic::Images.spec().partitions;
    asked.add_partition_range(&kafka.prefix.name(Topic::Images), 0, partitions - 1);
    group_consumer(kafka).committed_offsets(asked, PATIENCE).unwrap()
}

/// A service that is stopped for good finds the offsets gone with the topic (see
/// `a_group_that_lost_its_offsets_follows_the_lost_offsets_setting`). Here its last commit
/// came after that.
#[tokio::test(flavor = "multi_thread")]
async fn an_offset_committed_in_a_deleted_topic_does_not_count_in_the_new_one() {
    let fixture = Fixture::on_apache_kafka().await;
    let kafka = fixture.kafka();
    running(&kafka).await.stop().await;
    let late = committed(&kafka);
    replace(&kafka, Topic::Images).await;
    publish(&kafka, 60..300).await;
    let are_gone = || committed(&kafka).elements().iter().all(|at| at.offset() == Offset::Invalid);
    eventually("Kafka removes the offsets with their topic", are_gone).await;
    group_consumer(&kafka).commit(&late, CommitMode::Sync).unwrap();
    let run = RunningStage::copying(&kafka);
    assert_read(&fixture, run, 0..300).await;
}

type Heads = Arc<Mutex<BTreeMap<i32, Vec<usize>>>>;

fn head(number: usize) -> OutputRecord {
    OutputRecord { topic: Topic::Heads, ..numbered(number) }
}

/// Returns the longest end that is in order, without the records of the old table.
fn last_in_order(numbers: &[usize]) -> Vec<usize> {
    let start = (1..numbers.len()).rev().find(|at| numbers[at - 1] >= numbers[*at]).unwrap_or(0);
    numbers[start..].iter().copied().filter(|number| *number >= 30).collect()
}

async fn a_table_created_again_is_read_from_its_first_record(fixture: Fixture) {
    let kafka = fixture.kafka();
    let publisher = Publisher::new(&kafka).unwrap();
    publisher.publish_many((0..30).map(head)).await.unwrap();
    let (applied, stop) = (Heads::default(), CancellationToken::new());
    let noted = applied.clone();
    let table = TableReader::start(&kafka, Topic::Heads, stop, move |record: InputRecord| {
        noted.lock().entry(record.partition).or_default().push(number(&record));
    });
    let (table, count) = (table.unwrap(), || applied.lock().values().map(Vec::len).sum::<usize>());
    within("the table", table.caught_up()).await.unwrap();
    assert_eq!(count(), 30);
    replace(&kafka, Topic::Heads).await;
    Publisher::new(&kafka).unwrap().publish_many((30..90).map(head)).await.unwrap();
    let all_applied = || {
        let applied = applied.lock();
        let numbers: Vec<usize> = applied.values().flatten().copied().collect();
        (0..90).all(|number| numbers.contains(&number))
    };
    eventually("the new table is applied from its first record", all_applied).await;
    // Records that were read from the new topic at the old offset before that do not come last.
    let last: Vec<usize> = applied.lock().values().flat_map(|numbers| last_in_order(numbers)).collect();
    assert_eq!(last.len(), 60, "the new table is applied in order: {last:?}");
}

async fn add_partitions(kafka: &KafkaConfig, topic: Topic, count: usize) {
    let name = kafka.prefix.name(topic);
    let new = NewPartitions::new(&name, count);
    let added = admin(kafka).create_partitions(&[new], &AdminOptions::new()).await.unwrap();
    assert!(added[0].is_ok(), "{added:?}");
    has_partitions(kafka, topic, count).await;
}

/// Publishes records to all partitions of a topic that has just been given more, each key until one
/// lands on a new partition.
async fn publish_to_all(kafka: &KafkaConfig, numbers: std::ops::Range<usize>) {
    let keyed =
        |number: usize| OutputRecord { key: Some(format!("k{number}").into_bytes()), ..numbered(number) };
    let publisher = Publisher::new(kafka).unwrap();
    let mut partitions = Vec::new();
    for number in numbers {
        partitions.push(publisher.publish(keyed(number)).await.unwrap().partition);
    }
    assert!(
        partitions.iter().any(|partition| *partition >= Topic::Images.spec().partitions),
        "{partitions:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_younger_than_the_group_is_read_from_its_start() {
    let fixture = Fixture::on_apache_kafka().await;
    let mut kafka = fixture.kafka();
    kafka.properties.insert("topic.metadata.refresh.interval.ms".into(), "3000".into());
    let partitions = Topic::Images.spec().partitions as usize;
    running(&kafka).await.stop().await;
    add_partitions(&kafka, Topic::Images, partitions + 2).await;
    publish_to_all(&kafka, 60..120).await;
    let run = RunningStage::copying(&kafka);
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..120).await;
    add_partitions(&kafka, Topic::Images, partitions + 6).await;
    publish_to_all(&kafka, 120..240).await;
    assert_read(&fixture, run, 0..240).await;
}

on_both! {
    a_longer_topic_created_again_at_once_is_read_from_its_first_record,
    a_topic_created_again_at_once_that_ends_at_the_old_offsets_is_read,
    a_topic_created_again_later_is_read_from_its_first_record,
    a_deleted_input_is_created_again_and_read,
    a_topic_that_is_replaced_while_its_partitions_are_paused_is_read_from_its_first_record,
    a_topic_created_again_and_again_under_load_loses_nothing,
    two_members_of_a_group_read_a_new_topic_together,
    an_output_created_again_at_once_is_written,
    a_deleted_output_is_created_again_and_written,
    a_table_created_again_is_read_from_its_first_record,
}
