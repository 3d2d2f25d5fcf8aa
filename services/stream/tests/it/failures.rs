//! The effects of a stage's failures: transient ones are retried, fatal ones end the run with
//! nothing committed, and a panic costs one record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, RunnerConfig, StreamError};

use crate::support::*;

async fn a_transient_failure_is_tried_again_without_loss_and_in_order(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..500).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let config = RunnerConfig { retry_initial_ms: 10, batch_records: 50, ..RunnerConfig::default() };
    let run =
        RunningStage::start(&kafka, config, move |batch| match counted.fetch_add(1, Ordering::Relaxed) % 3 {
            2 => Ok(copies(batch)),
            _ => Err(BatchError::Transient("the index is away".into())),
        });
    let out = take(&kafka, Topic::ImageEmbeddings, 500).await;
    assert_exactly_once(&out, 0..500);
    assert_ordered_by_key(&out);
    let summary = run.stop().await;
    assert_eq!(calls.load(Ordering::Relaxed) as u64, 3 * summary.batches);
}

async fn a_stop_interrupts_the_wait_for_a_retry_and_nothing_is_lost(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..10).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let config = RunnerConfig { retry_initial_ms: 60_000, retry_max_ms: 60_000, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Err(BatchError::Transient("the index is away".into()))
    });
    eventually("the first try", || calls.load(Ordering::Relaxed) > 0).await;
    let asked = Instant::now();
    run.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "stopping took {:?}", asked.elapsed());
    let run = RunningStage::copying(&kafka);
    assert_exactly_once(&take(&kafka, Topic::ImageEmbeddings, 10).await, 0..10);
    run.stop().await;
}

/// Runs a stage that fails, then a good one; the second must see everything again.
async fn fatal(
    fixture: Fixture,
    process: fn(&[InputRecord]) -> Result<Vec<Outcome>, BatchError>,
) -> StreamError {
    let kafka = fixture.kafka();
    publish(&kafka, 0..10).await;
    let config = RunnerConfig { batch_records: 100, batch_time_ms: 300, ..RunnerConfig::default() };
    let failing = RunningStage::start(&kafka, config, process);
    let health = failing.health.clone();
    let error = failing.failure().await;
    assert!(!health.is_live(), "a failed service is not live");
    let run = RunningStage::copying(&kafka);
    assert_exactly_once(&take(&kafka, Topic::ImageEmbeddings, 10).await, 0..10);
    run.stop().await;
    error
}

fn assert_fatal(error: &StreamError, part: &str) {
    let StreamError::StageFatal { stage, reason } = error else { panic!("{error}") };
    assert_eq!(stage, NAME);
    assert!(reason.contains(part), "{reason}");
}

async fn a_fatal_failure_ends_the_run_and_commits_nothing(fixture: Fixture) {
    let error = fatal(fixture, |_| Err(BatchError::Fatal("the model is gone".into()))).await;
    assert_fatal(&error, "the model is gone");
}

async fn a_record_that_panics_is_a_dead_letter_and_its_neighbours_pass(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..20).await;
    let config = RunnerConfig { batch_records: 100, batch_time_ms: 300, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, |batch| {
        assert!(batch.iter().all(|record| number(record) != 7), "a bug in the stage");
        Ok(copies(batch))
    });
    let letters = take(&kafka, Topic::DeadLetters, 1).await;
    let out = take(&kafka, Topic::ImageEmbeddings, 19).await;
    let summary = run.stop().await;
    assert_eq!((summary.records_in, summary.records_out, summary.dead_letters), (20, 19, 1));
    assert!(counts(&out).keys().all(|number| *number != 7));
    assert_eq!(number(&letters[0]), 7);
    let header = |name: &str| {
        let found = letters[0].headers.iter().find(|(header, _)| header == name).unwrap();
        String::from_utf8(found.1.clone()).unwrap()
    };
    assert_eq!(header("unprompt-dead-letter-code"), "stage-panicked");
    assert!(header("unprompt-dead-letter-error").contains("a bug in the stage"));
}

async fn a_stage_that_panics_on_everything_stops_as_a_flood(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..50).await;
    let config = RunnerConfig { dead_letter_count: 10, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, |_| panic!("a bug in the stage"));
    let error = run.failure().await;
    assert!(matches!(error, StreamError::DeadLetterFlood { .. }), "{error}");
    assert!(error.to_string().contains("a bug in the stage"), "{error}");
}

async fn a_wrong_number_of_outcomes_is_a_programming_error(fixture: Fixture) {
    let too_many = |batch: &[InputRecord]| Ok([copies(batch), copies(&batch[..1])].concat());
    assert_fatal(&fatal(fixture, too_many).await, "programming error");
}

async fn no_outcomes_are_a_programming_error(fixture: Fixture) {
    assert_fatal(&fatal(fixture, |_| Ok(Vec::new())).await, "programming error");
}

async fn a_stage_may_answer_for_the_first_records_only(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..60).await;
    let config = RunnerConfig { batch_records: 60, batch_time_ms: 300, ..RunnerConfig::default() };
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let run = RunningStage::start(&kafka, config.clone(), move |batch| {
        // After twenty records it seems to hang, as a network does that draws for minutes.
        if counted.fetch_add(1, Ordering::Relaxed) >= 10 {
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(copies(&batch[..batch.len().min(2)]))
    });
    // They are visible while the stage still has the rest of their batch.
    let first = take(&kafka, Topic::ImageEmbeddings, 20).await;
    assert_ordered_by_key(&first);
    let summary = run.stop().await;
    assert!((20..60).contains(&summary.records_in), "{summary:?}");
    let run = RunningStage::start(&kafka, config, |batch| Ok(copies(&batch[..1])));
    let out = take_until_complete(&kafka, Topic::ImageEmbeddings, 0..60).await;
    run.stop().await;
    fixture.assert_promise(&out, 0..60);
}

async fn a_stage_that_cannot_be_built_says_why(fixture: Fixture) {
    let load = || Err::<Box<dyn unprompt_stream::Stage>, _>("no such folder; run `make models`");
    let (kafka, stop) = (fixture.kafka(), tokio_util::sync::CancellationToken::new());
    let run = unprompt_stream::run_stage(
        &kafka,
        RunnerConfig::default(),
        service(NAME),
        load,
        stop,
        unprompt_stream::Health::default(),
    );
    let error = within("the refusal", run).await.unwrap_err();
    assert!(error.to_string().contains("no such folder"), "{error}");
}

on_both! {
    a_transient_failure_is_tried_again_without_loss_and_in_order,
    a_stop_interrupts_the_wait_for_a_retry_and_nothing_is_lost,
    a_stage_that_cannot_be_built_says_why,
    a_fatal_failure_ends_the_run_and_commits_nothing,
    a_record_that_panics_is_a_dead_letter_and_its_neighbours_pass,
    a_stage_that_panics_on_everything_stops_as_a_flood,
    a_wrong_number_of_outcomes_is_a_programming_error,
    no_outcomes_are_a_programming_error,
    a_stage_may_answer_for_the_first_records_only,
}
