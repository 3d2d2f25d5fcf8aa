//! Reading without a group: tables, tails, and reading to the end.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{OutputRecord, Publisher, Start, TableReader, Tail, read_to_end};

use crate::support::*;

fn head(name: &str, value: Option<&str>) -> OutputRecord {
    OutputRecord {
        topic: Topic::Heads,
        key: Some(name.into()),
        value: value.map(|value| value.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_reads_existing_records_and_follows_changes() {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    let publisher = Publisher::new(&kafka).unwrap();
    let heads = [head("a", Some("1")), head("b", Some("1")), head("a", Some("2")), head("b", None)];
    publisher.publish_many(heads).await.unwrap();
    let table = Arc::new(Mutex::new(BTreeMap::new()));
    let applied = table.clone();
    let reader = TableReader::start(&kafka, Topic::Heads, CancellationToken::new(), move |record| {
        applied.lock().insert(record.key.unwrap(), record.value);
    })
    .unwrap();
    within("catching up", reader.caught_up()).await.unwrap();
    let (a, b) = (b"a".to_vec(), b"b".to_vec());
    assert_eq!(*table.lock(), [(a.clone(), Some(b"2".to_vec())), (b, None)].into());
    publisher.publish(head("a", Some("3"))).await.unwrap();
    eventually("the change arrives", || table.lock()[&a] == Some(b"3".to_vec())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_table_is_caught_up_at_once_and_a_missing_one_after_its_creation() {
    let fixture = Fixture::start().await;
    let reader = TableReader::start(&fixture.kafka(), Topic::Heads, CancellationToken::new(), drop).unwrap();
    within("catching up", reader.caught_up()).await.unwrap();
    let mut elsewhere = fixture.kafka();
    elsewhere.prefix = unprompt_schemas::topics::Prefix::new("later.").unwrap();
    let reader = TableReader::start(&elsewhere, Topic::Heads, CancellationToken::new(), drop).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!reader.is_caught_up());
    unprompt_stream::ensure_topics(&elsewhere).await.unwrap();
    within("catching up", reader.caught_up()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_to_the_end_reads_everything_once_and_ends() {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    publish(&kafka, 0..3_000).await;
    let mut numbers = Vec::new();
    let topics = [Topic::Images, Topic::Predictions];
    let read = read_to_end(&kafka, &topics, |record| numbers.push(record));
    let summary = within("reading to the end", read).await.unwrap();
    assert_eq!(summary.records, 3_000);
    assert_exactly_once(&numbers, 0..3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_from_the_end_promptly_reads_only_new_records() {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    publish(&kafka, 0..10).await;
    let mut tail = Tail::new(&kafka, &[Topic::Images, Topic::DeadLetters], Start::End).await.unwrap();
    let publisher = Publisher::new(&kafka).unwrap();
    publisher.publish(numbered(10)).await.unwrap();
    assert_eq!(number(&within("the record", tail.next()).await.unwrap()), 10);
    let started = Instant::now();
    publisher.publish(numbered(11)).await.unwrap();
    assert_eq!(number(&within("the record", tail.next()).await.unwrap()), 11);
    assert!(started.elapsed() < Duration::from_millis(500), "it took {:?}", started.elapsed());
}
