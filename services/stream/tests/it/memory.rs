//! What a runner holds is bounded, however large the records and however slow the stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::{KafkaConfig, Outcome, OutputRecord, Profile, Publisher, RunnerConfig};

use crate::support::*;

const BROKERS: &str = "UNPROMPT_TEST_BROKERS";
const PREFIX: &str = "UNPROMPT_TEST_PREFIX";
const PROFILE: &str = "UNPROMPT_TEST_PROFILE";
const PICTURES: usize = 48;
const PICTURE_BYTES: usize = 10 << 20;
const BYTES_IN_FLIGHT: usize = 40 << 20;
/// What is taken, one record over it, half as much fetched ahead, an answer of at least the largest record, and what a process
/// needs besides: threads, connections, the copy of a record that is being taken, what the allocator keeps.
const BOUND: usize = BYTES_IN_FLIGHT + PICTURE_BYTES + BYTES_IN_FLIGHT / 2 + (22 << 20) + (48 << 20);

/// Bytes of this process by the kernel's count, such as `VmHWM`, the most that were resident.
fn resident(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':')).unwrap();
    found.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by the tests below, in a process of its own"]
async fn the_process_that_is_weighed() {
    let prefix = Prefix::new(&std::env::var(PREFIX).unwrap()).unwrap();
    let profile = if std::env::var(PROFILE).unwrap() == "Kafka" { Profile::Kafka } else { Profile::Embedded };
    let kafka = KafkaConfig { prefix, profile, ..KafkaConfig::embedded(std::env::var(BROKERS).unwrap()) };
    let config =
        RunnerConfig { bytes_in_flight: BYTES_IN_FLIGHT, batch_bytes: 20 << 20, ..RunnerConfig::default() };
    let before = resident("VmRSS");
    let done = Arc::new(AtomicUsize::new(0));
    let counted = done.clone();
    let run = Run::start(&kafka, config, move |batch| {
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

async fn pictures_of_10_mb_keep_to_the_bound_on_bytes_in_flight(fixture: Fixture) {
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
    assert!(output.status.success(), "the process that was weighed failed");
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

on_both! {
    pictures_of_10_mb_keep_to_the_bound_on_bytes_in_flight,
}
