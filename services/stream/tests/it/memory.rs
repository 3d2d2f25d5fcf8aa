//! A runner's memory is bounded, however large the records and however slow the stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::{
    InputRecord, KafkaConfig, Outcome, OutputRecord, Profile, Publisher, RunnerConfig, ensure_topics,
};

use crate::support::*;

const BROKERS: &str = "UNPROMPT_TEST_BROKERS";
const PREFIX: &str = "UNPROMPT_TEST_PREFIX";
const PROFILE: &str = "UNPROMPT_TEST_PROFILE";
const PICTURES: usize = 48;
const PICTURE_BYTES: usize = 10 << 20;
const BYTES_IN_FLIGHT: usize = 40 << 20;
/// The bytes taken, one record above that, half as much prefetched, a response of at least the
/// largest record, and what a process needs besides: threads, connections, the copy of a record
/// that is being taken, what the allocator keeps.
const BOUND: usize = BYTES_IN_FLIGHT + PICTURE_BYTES + BYTES_IN_FLIGHT / 2 + (22 << 20) + (48 << 20);

/// Returns bytes of this process by the kernel's count, such as `VmHWM`, the most
/// that were resident.
fn resident(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':')).unwrap();
    found.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the tests below run it in a separate process"]
async fn the_process_that_is_weighed() {
    let prefix = Prefix::new(&std::env::var(PREFIX).unwrap()).unwrap();
    let profile = if std::env::var(PROFILE).unwrap() == "Kafka" { Profile::Kafka } else { Profile::Embedded };
    let kafka = KafkaConfig { prefix, profile, ..KafkaConfig::embedded(std::env::var(BROKERS).unwrap()) };
    let config =
        RunnerConfig { bytes_in_flight: BYTES_IN_FLIGHT, batch_bytes: 20 << 20, ..RunnerConfig::default() };
    let before = resident("VmRSS");
    let done = Arc::new(AtomicUsize::new(0));
    let counted = done.clone();
    let run = RunningStage::start(&kafka, config, move |batch| {
        std::thread::sleep(Duration::from_millis(50) * batch.len() as u32);
        counted.fetch_add(batch.len(), Ordering::Relaxed);
        let length = |record: &unprompt_stream::InputRecord| OutputRecord {
            topic: Topic::ImageEmbeddings,
            key: None,
            value: Some(record.value.as_ref().unwrap().len().to_string().into_bytes()),
            headers: Vec::new(),
        };
        Ok(batch.iter().map(|record| Outcome::Outputs(vec![length(record)])).collect())
    });
    eventually("all pictures went through", || done.load(Ordering::Relaxed) >= PICTURES).await;
    run.stop().await;
    println!("grown by {}", resident("VmHWM") - before);
}

async fn pictures_of_10_mb_stay_within_the_limit_on_bytes_in_flight(fixture: Fixture) {
    let kafka = fixture.kafka();
    let publisher = Publisher::new(&kafka).unwrap();
    let picture = |number: usize| OutputRecord {
        topic: Topic::Images,
        key: Some(format!("key-{number}").into_bytes()),
        value: Some(vec![number as u8; PICTURE_BYTES]),
        headers: Vec::new(),
    };
    assert_eq!(publisher.publish_many((0..PICTURES).map(picture)).await.unwrap(), PICTURES);
    let child = this_binary("memory::the_process_that_is_weighed")
        .env(BROKERS, &kafka.brokers)
        .env(PREFIX, kafka.prefix.as_str())
        .env(PROFILE, format!("{:?}", kafka.profile))
        .spawn()
        .unwrap();
    let output = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
    assert!(output.status.success(), "the measured process failed");
    let said = String::from_utf8(output.stdout).unwrap();
    let grown = said.lines().find_map(|line| Some(line.split_once("grown by ")?.1));
    let grown: usize = grown.expect("it says by how much it grew").parse().unwrap();
    println!("the runner grew by {grown} bytes of {BOUND}");
    assert!(
        grown > BYTES_IN_FLIGHT / 2,
        "{grown} bytes: the runner held next to nothing; the test proved nothing"
    );
    assert!(grown < BOUND, "the runner grew by {grown} bytes; {BOUND} is the bound");
    assert_eq!(all(&kafka, Topic::ImageEmbeddings).await.len(), PICTURES);
}

const DRAWN: usize = 48;
const DRAWING_BYTES: usize = 1 << 20;
const DRAWINGS_IN_FLIGHT: usize = 8;
const DRAWINGS_A_BATCH: usize = 4;
/// The batches with the stage: one in progress, one waiting.
const BATCHES_WITH_THE_STAGE: usize = 2;

/// An output of one megabyte that spells the number of its input.
fn drawing(record: &InputRecord) -> Outcome {
    let digits = number(record).to_string();
    let value = ["0".repeat(DRAWING_BYTES - digits.len()), digits].concat().into_bytes();
    let (topic, key) = (Topic::ImageEmbeddings, record.key.clone());
    Outcome::Outputs(vec![OutputRecord { topic, key, value: Some(value), headers: Vec::new() }])
}

/// The inputs are a few bytes each. If only they counted, everything would be drawn while
/// nothing can be written.
#[tokio::test(flavor = "multi_thread")]
async fn large_outputs_of_small_inputs_stay_within_the_limit_while_the_broker_is_down() {
    const SERVICE: &str = "drawing";
    let dir = tempfile::TempDir::new().unwrap();
    let broker = EmbeddedBroker::start(dir.path(), 0).await.unwrap();
    let (port, kafka) = (broker.address().port(), KafkaConfig::embedded(broker.brokers()));
    ensure_topics(&kafka).await.unwrap();
    publish(&kafka, 0..DRAWN).await;
    metric("unprompt_records_in_total", SERVICE, &[]);
    let (open, drawn) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (gate, counted) = (open.clone(), drawn.clone());
    let config = RunnerConfig {
        batch_records: DRAWINGS_A_BATCH,
        bytes_in_flight: DRAWINGS_IN_FLIGHT * DRAWING_BYTES,
        ..RunnerConfig::default()
    };
    let run = RunningStage::named(SERVICE, &kafka, config, move |batch| {
        while !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        counted.fetch_add(batch.len(), Ordering::Relaxed);
        Ok(batch.iter().map(drawing).collect())
    });
    let taken = || metric("unprompt_records_in_total", SERVICE, &[]) == DRAWN as f64;
    eventually("all inputs are taken", taken).await;
    broker.stop().await.unwrap();
    open.store(true, Ordering::Relaxed);
    let held = || metric("unprompt_bytes_in_flight", SERVICE, &[]) as usize;
    eventually("the bound is reached", || held() >= DRAWINGS_IN_FLIGHT * DRAWING_BYTES).await;
    // Enough time to draw all of them, if nothing held the stage up.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let most = DRAWINGS_IN_FLIGHT + BATCHES_WITH_THE_STAGE * DRAWINGS_A_BATCH;
    let (count, bytes) = (drawn.load(Ordering::Relaxed), held());
    assert!(count <= most, "{count} pictures were drawn; {most} may wait");
    assert!(bytes < (most + 1) * DRAWING_BYTES, "{bytes} bytes are in flight for {most} pictures");

    let broker = EmbeddedBroker::start(dir.path(), port).await.unwrap();
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..DRAWN).await;
    eventually("nothing is held any more", || held() == 0).await;
    run.stop().await;
    broker.stop().await.unwrap();
}

on_both! {
    pictures_of_10_mb_stay_within_the_limit_on_bytes_in_flight,
}
