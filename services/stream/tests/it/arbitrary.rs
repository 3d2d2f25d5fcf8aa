//! Records of arbitrary bytes and headers pass through the runner unchanged, whatever a stage
//! decides about them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use unprompt_schemas::cloudevents::Headers;
use unprompt_schemas::dead_letter::own_headers;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Outcome, OutputRecord, Publisher, Rejection, RunnerConfig};

use crate::support::*;

const RECORDS: usize = 300;

/// Headers with names without NUL, the only ones that both Kafka and librdkafka support.
fn headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![
        "[a-z_-]{0,12}",
        "[^\\x00]{0,8}",
        Just("ce_id".to_owned()),
        Just("traceparent".to_owned())
    ];
    vec((name, vec(any::<u8>(), 0..40)), 0..5)
}

fn record() -> impl Strategy<Value = OutputRecord> {
    let bytes = |most| proptest::option::of(vec(any::<u8>(), 0..most));
    (bytes(20), bytes(2_000), headers()).prop_map(|(key, value, headers)| OutputRecord {
        topic: Topic::Images,
        key,
        value,
        headers,
    })
}

/// Key, value and headers: everything that a producer sets.
type Said = (Option<Vec<u8>>, Option<Vec<u8>>, Headers);

async fn arbitrary_records_are_kept_as_they_were(fixture: Fixture) {
    let kafka = fixture.kafka();
    let mut runner = TestRunner::deterministic();
    let records: Vec<OutputRecord> =
        (0..RECORDS).map(|_| record().new_tree(&mut runner).unwrap().current()).collect();
    let mut sent: Vec<Said> =
        records.iter().map(|r| (r.key.clone(), r.value.clone(), r.headers.clone())).collect();
    Publisher::new(&kafka).unwrap().publish_many(records).await.unwrap();
    let config = RunnerConfig { dead_letter_ratio: 2.0, ..RunnerConfig::default() };
    let reject = |batch: &[InputRecord]| {
        Ok(batch.iter().map(|_| Outcome::Rejected(Rejection::new("never", "it is none"))).collect())
    };
    let run = RunningStage::start(&kafka, config, reject);
    let letters = take(&kafka, Topic::DeadLetters, RECORDS).await;
    run.stop().await;
    let mut kept: Vec<Said> =
        letters.into_iter().map(|r| (r.key, r.value, own_headers(&r.headers))).collect();
    sent.sort();
    kept.sort();
    for (kept, sent) in kept.iter().zip(&sent) {
        assert_eq!(kept, sent);
    }
    assert_eq!(kept.len(), sent.len());
}

on_both! {
    arbitrary_records_are_kept_as_they_were,
}
