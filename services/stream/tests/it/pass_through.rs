//! The plain flow: everything in comes out, in order, and is committed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use unprompt_schemas::cloudevents::names;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, Outcome, OutputRecord, Profile, Publisher, RunnerConfig};

use crate::support::*;

async fn thousands_of_records_come_out_once_and_in_order(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..5_000).await;
    let run = RunningStage::copying(&kafka);
    let out = take(&kafka, Topic::ImageEmbeddings, 5_000).await;
    assert_exactly_once(&out, 0..5_000);
    assert_ordered_by_key(&out);
    let summary = run.stop().await;
    assert_eq!((summary.records_in, summary.records_out, summary.dead_letters), (5_000, 5_000, 0));
}

async fn key_value_headers_and_timestamp_arrive_as_they_were(fixture: Fixture) {
    let kafka = fixture.kafka();
    let headers =
        vec![("a".into(), b"1".to_vec()), ("a".into(), b"2".to_vec()), ("empty".into(), Vec::new())];
    let record =
        OutputRecord { topic: Topic::Images, key: Some(vec![0, 255]), value: Some(vec![0; 10]), headers };
    let bare = OutputRecord { topic: Topic::Images, key: None, value: None, headers: Vec::new() };
    Publisher::new(&kafka).unwrap().publish_many([record.clone(), bare]).await.unwrap();
    let read = all(&kafka, Topic::Images).await;
    let full = read.iter().find(|read| read.key.is_some()).unwrap();
    assert_eq!((&full.key, &full.value, &full.headers), (&record.key, &record.value, &record.headers));
    assert!(full.timestamp_ms > 1_700_000_000_000, "{}", full.timestamp_ms);
    let bare = read.iter().find(|read| read.key.is_none()).unwrap();
    assert_eq!((&bare.value, bare.headers.len()), (&None, 0));
}

async fn an_output_bears_the_time_of_its_writing_and_the_time_of_its_source_in_a_header(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..20).await;
    let before: BTreeMap<_, _> =
        all(&kafka, Topic::Images).await.iter().map(|input| (number(input), input.timestamp_ms)).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let run = RunningStage::copying(&kafka);
    let out = take(&kafka, Topic::ImageEmbeddings, 20).await;
    run.stop().await;
    for output in &out {
        let source = before[&number(output)];
        assert!(output.timestamp_ms > source, "{} for a record of {source}", output.timestamp_ms);
        let mut headers = output.headers.iter().filter(|(name, _)| name == names::SOURCE_TIME);
        assert_eq!(headers.next().unwrap().1, source.to_string().into_bytes());
        assert!(headers.next().is_none());
    }
}

async fn publish_at(kafka: &KafkaConfig, times: &[i64]) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().unwrap();
    let topic = kafka.prefix.name(Topic::Images);
    for (number, time) in times.iter().enumerate() {
        let value = number.to_string();
        let record = FutureRecord::<(), _>::to(&topic).payload(&value).timestamp(*time);
        producer.send(record, Duration::from_secs(20)).await.unwrap();
    }
}

/// A broker takes a time far in the past, and by default refuses one an hour in the future.
async fn a_record_of_any_time_passes(fixture: Fixture) {
    let kafka = fixture.kafka();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    // The last one is as far in the past as i64 reaches, some milliseconds after it is produced.
    let mut times = vec![1, 86_400_000, now, now + 60_000];
    if kafka.profile == Profile::Embedded {
        // As far in the past as i64 reaches, and further while it waits.
        times.push(now - i64::MAX + 2_000);
    }
    publish_at(&kafka, &times).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let run = RunningStage::copying(&kafka);
    let out = take(&kafka, Topic::ImageEmbeddings, times.len()).await;
    run.stop().await;
    assert_eq!(counts(&out).len(), times.len());
    assert!(out.iter().all(|output| (now..now + 3_600_000).contains(&output.timestamp_ms)));
}

async fn batches_keep_to_their_bounds_and_one_input_may_give_many_outputs(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..100).await;
    let config = RunnerConfig { batch_records: 7, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, |batch| {
        assert!(batch.len() <= 7, "a batch of {}", batch.len());
        let twice = |outcome| match outcome {
            Outcome::Outputs(outputs) => Outcome::Outputs([outputs.clone(), outputs].concat()),
            rejected => rejected,
        };
        Ok(copies(batch).into_iter().map(twice).collect())
    });
    let out = take(&kafka, Topic::ImageEmbeddings, 200).await;
    assert!(counts(&out).values().all(|count| *count == 2));
    let summary = run.stop().await;
    assert_eq!((summary.records_in, summary.records_out), (100, 200));
    assert!(summary.batches >= 15, "{summary:?}");
}

async fn large_pictures_pass(fixture: Fixture) {
    let kafka = fixture.kafka();
    let publisher = Publisher::new(&kafka).unwrap();
    let sizes = [5 << 20, 20 << 20, 100];
    for size in sizes {
        let value = Some(vec![7; size]);
        let record =
            OutputRecord { topic: Topic::Images, key: Some(b"k".to_vec()), value, headers: Vec::new() };
        within("publishing a large record", publisher.publish(record)).await.unwrap();
    }
    let run = RunningStage::start(&kafka, RunnerConfig::default(), |batch| {
        let length = |record: &unprompt_stream::InputRecord| OutputRecord {
            topic: Topic::ImageEmbeddings,
            key: record.key.clone(),
            value: Some(record.value.as_ref().unwrap().len().to_string().into_bytes()),
            headers: Vec::new(),
        };
        Ok(batch.iter().map(|record| Outcome::Outputs(vec![length(record)])).collect())
    });
    let lengths: Vec<_> = take(&kafka, Topic::ImageEmbeddings, 3).await.iter().map(number).collect();
    assert_eq!(lengths, sizes);
    run.stop().await;
}

async fn a_small_bound_on_bytes_in_flight_slows_but_loses_nothing(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..300).await;
    let config = RunnerConfig { bytes_in_flight: 5_000, batch_records: 10, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, |batch| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok(copies(batch))
    });
    let out = take(&kafka, Topic::ImageEmbeddings, 300).await;
    assert_exactly_once(&out, 0..300);
    assert_ordered_by_key(&out);
    run.stop().await;
}

on_both! {
    thousands_of_records_come_out_once_and_in_order,
    key_value_headers_and_timestamp_arrive_as_they_were,
    an_output_bears_the_time_of_its_writing_and_the_time_of_its_source_in_a_header,
    a_record_of_any_time_passes,
    batches_keep_to_their_bounds_and_one_input_may_give_many_outputs,
    large_pictures_pass,
    a_small_bound_on_bytes_in_flight_slows_but_loses_nothing,
}
