//! A bad record goes to the dead letters with its reason, and its neighbours pass.

use unprompt_schemas::dead_letter::{DeadLetter, own_headers};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Outcome, OutputRecord, Publisher, Rejection, RunnerConfig};

use crate::support::*;

fn reject_every_tenth(batch: &[InputRecord]) -> Vec<Outcome> {
    let judge = |(record, outcome)| match number(record) % 10 {
        3 => Outcome::Rejected(Rejection::new("ends-in-three", "send another number")),
        _ => outcome,
    };
    batch.iter().zip(copies(batch)).map(judge).collect()
}

async fn a_rejected_record_is_kept_as_it_was_and_its_neighbours_pass(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..100).await;
    let run = RunningStage::start(&kafka, RunnerConfig::default(), |batch| Ok(reject_every_tenth(batch)));
    let letters = take(&kafka, Topic::DeadLetters, 10).await;
    let passed = take(&kafka, Topic::ImageEmbeddings, 90).await;
    let summary = run.stop().await;
    assert_eq!((summary.records_in, summary.records_out, summary.dead_letters), (100, 90, 10));
    assert!(passed.iter().all(|record| number(record) % 10 != 3));
    let sources = all(&kafka, Topic::Images).await;
    for letter in &letters {
        let source = sources.iter().find(|source| number(source) == number(letter)).unwrap();
        assert_eq!((&letter.key, &letter.value), (&source.key, &source.value));
        assert_eq!(own_headers(&letter.headers), source.headers);
        let described = DeadLetter::parse(&letter.headers).unwrap();
        assert_eq!(described.topic, source.topic_name);
        assert_eq!((described.partition, described.offset), (source.partition, source.offset));
        assert_eq!(described.service, NAME);
        assert_eq!(
            (described.code.as_str(), described.error.as_str()),
            ("ends-in-three", "send another number")
        );
    }
}

async fn an_output_larger_than_its_topic_takes_is_a_dead_letter_not_an_endless_retry(fixture: Fixture) {
    let kafka = fixture.kafka();
    let publisher = Publisher::new(&kafka).unwrap();
    publish(&kafka, 0..5).await;
    let large = OutputRecord { value: Some(vec![b'1'; 5 << 20]), ..numbered(0) };
    publisher.publish(large.clone()).await.unwrap();
    publish(&kafka, 5..10).await;
    let run = RunningStage::copying(&kafka);
    assert_exactly_once(&take(&kafka, Topic::ImageEmbeddings, 10).await, 0..10);
    let letters = take(&kafka, Topic::DeadLetters, 1).await;
    let described = DeadLetter::parse(&letters[0].headers).unwrap();
    assert_eq!(described.code, "output-too-large");
    assert!(described.error.contains("max.message.bytes"), "{}", described.error);
    assert!(letters[0].value == large.value, "the dead letter holds the record as it was");
    let summary = run.stop().await;
    assert_eq!((summary.records_in, summary.dead_letters), (11, 1));
}

async fn the_largest_picture_fits_into_a_dead_letter(fixture: Fixture) {
    let kafka = fixture.kafka();
    let value = Some(vec![b'1'; unprompt_schemas::topics::PICTURE_MAX_BYTES]);
    Publisher::new(&kafka)
        .unwrap()
        .publish(OutputRecord { value: value.clone(), ..numbered(0) })
        .await
        .unwrap();
    let run = RunningStage::start(&kafka, RunnerConfig::default(), |batch| {
        let reason = "x".repeat(10_000);
        Ok(batch.iter().map(|_| Outcome::Rejected(Rejection::new("never", reason.clone()))).collect())
    });
    let letters = take(&kafka, Topic::DeadLetters, 1).await;
    assert!(letters[0].value == value);
    run.stop().await;
}

async fn a_flood_of_bad_records_stops_the_run_before_the_topic_is_drained(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..1_000).await;
    let config = RunnerConfig {
        batch_records: 10,
        dead_letter_window: 100,
        dead_letter_count: 50,
        ..RunnerConfig::default()
    };
    let run = RunningStage::start(&kafka, config, |batch| {
        Ok(batch.iter().map(|_| Outcome::Rejected(Rejection::new("wrong-model", "load another"))).collect())
    });
    let error = run.failure().await;
    assert!(matches!(error, unprompt_stream::StreamError::DeadLetterFlood { .. }), "{error}");
    assert!(error.to_string().contains("load another"), "{error}");
    let dead = all(&kafka, Topic::DeadLetters).await.len();
    assert!(dead < 50, "{dead} of 1000 records went to the dead letters before it stopped");

    let mended = RunningStage::copying(&kafka);
    take(&kafka, Topic::ImageEmbeddings, 1_000 - dead).await;
    mended.stop().await;
    let (passed, dead) = (all(&kafka, Topic::ImageEmbeddings).await, all(&kafka, Topic::DeadLetters).await);
    fixture.assert_promise(&[passed, dead].concat(), 0..1_000);
}

on_both! {
    a_flood_of_bad_records_stops_the_run_before_the_topic_is_drained,
    a_rejected_record_is_kept_as_it_was_and_its_neighbours_pass,
    an_output_larger_than_its_topic_takes_is_a_dead_letter_not_an_endless_retry,
    the_largest_picture_fits_into_a_dead_letter,
}
