//! Power cuts: the whole data directory is on a disk that loses everything that was not synced.
//! Afterwards everything that the broker acknowledged is still there, no checkpoint is ahead of the
//! broker, and no committed offset is ahead of the index.
//!
//! Each guarantee is also tried on a disk that ignores the syncs it depends on. It must be broken
//! there; otherwise the test would prove nothing.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{committed_offsets, list_topics};
use unprompt_test_disk::{Disk, Survivors};
use unprompt_test_skipped::skipped;

use crate::stack::{PATIENCE, Up, answer, prompt_record, prompts, publish, read, talk, unprompt, wait_for};

/// The writes that survive besides the synced ones: none, or a random part, with two seeds.
const CUTS: [Survivors; 3] =
    [Survivors::OnlySynced, Survivors::Some { seed: 1 }, Survivors::Some { seed: 2 }];
/// The file whose syncs the broker's acknowledgements depend on.
const BROKER_LOG: &str = "broker.db-wal";
/// Files whose syncs the index's acknowledgements depend on.
const INDEX_IDS: &str = "/mutable_id_tracker.mappings";
/// The rows of an import that a power cut interrupts.
const ROWS: usize = 20_000;
/// The prompts to index, and the number in the index at which the power is cut.
const PROMPTS: usize = 1_500;
const INDEXED: u64 = 300;

/// A disk, or `None` where none can be mounted.
fn disk(ignored: Option<&str>) -> Option<Disk> {
    let disk = Disk::mount().map_err(|error| skipped(&error.to_string())).ok()?;
    ignored.iter().for_each(|suffix| disk.ignore_syncs_of(*suffix));
    Some(disk)
}

fn points(data_dir: &Path) -> u64 {
    let stats = talk(data_dir, &["--json", "index", "stats"]);
    let stats: Option<Value> = serde_json::from_slice(&stats.stdout).ok();
    stats.and_then(|stats| stats["points"].as_u64()).unwrap_or_default()
}

async fn texts(up: &Up) -> HashSet<String> {
    let codec = Codec::single_object();
    let records = read(&up.kafka, Topic::Prompts).await;
    let decoded = records.iter().map(|record| codec.decode::<Prompt>(record.value.as_deref().unwrap()));
    decoded.map(|prompt| prompt.unwrap().text).collect()
}

fn import(data_dir: &Path, table: &Path) -> Child {
    let mut command = unprompt();
    command.arg("--data-dir").arg(data_dir).args(["--json", "prompts", "import"]).arg(table);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

/// Cuts the power in the middle of an import, and resumes it afterwards. Returns the number of rows
/// that are missing from the topic.
async fn lost_rows(mut disk: Disk, survivors: Survivors) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("rows.txt");
    let sample = ["prompts", "sample", "-n", &ROWS.to_string(), "--seed", "3"];
    let rows = answer(folder.path(), &sample);
    std::fs::write(&table, &rows).unwrap();
    let data_dir = disk.path().join("data");

    let up = Up::start(&data_dir);
    let mut importing = import(&data_dir, &table);
    wait_for("a checkpoint", || std::fs::read_dir(data_dir.join("imports")).ok()?.next()?.ok());
    disk.cut_power(survivors);
    importing.kill().unwrap();
    importing.wait().unwrap();
    up.kill();

    disk.restore().unwrap();
    let up = Up::start(&data_dir);
    let done = import(&data_dir, &table).wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found = texts(&up).await;
    let rows: HashSet<&str> = rows.lines().collect();
    rows.iter().filter(|row| !found.contains(**row)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_of_an_import_is_lost() {
    for survivors in CUTS {
        let Some(disk) = disk(None) else { return };
        assert_eq!(lost_rows(disk, survivors).await, 0, "{survivors:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_syncs_of_the_brokers_log_rows_are_lost() {
    let Some(disk) = disk(Some(BROKER_LOG)) else { return };
    assert!(lost_rows(disk, Survivors::OnlySynced).await > 0);
}

/// Whether every prompt that is on the broker has gone through the indexer.
async fn is_indexed(up: &Up) -> bool {
    let ends = list_topics(&up.kafka).await.unwrap();
    let end = |topic| ends.iter().find(|state| state.topic == topic).map_or(0, |state| state.offsets);
    let through = async |service, topic| {
        let committed = committed_offsets(&up.kafka, service, topic).await.unwrap();
        committed.values().sum::<i64>() == end(topic)
    };
    through("text-encoder", Topic::Prompts).await && through("indexer", Topic::PromptEmbeddings).await
}

/// Cuts the power while prompts are indexed. Returns the number of prompts missing from the index
/// after the services have read all uncommitted records again.
async fn lost_points(mut disk: Disk, survivors: Survivors) -> u64 {
    let data_dir = disk.path().join("data");
    let up = Up::start(&data_dir);
    let prompts = prompts(7, PROMPTS, false);
    let ids: HashSet<Uuid> = prompts.iter().map(Prompt::id).collect();
    publish(&up.kafka, prompts.iter().map(prompt_record).collect()).await;
    wait_for("some prompts in the index", || (points(&data_dir) >= INDEXED).then_some(()));
    disk.cut_power(survivors);
    up.kill();

    disk.restore().unwrap();
    let up = Up::start(&data_dir);
    let asked = Instant::now();
    while !is_indexed(&up).await {
        assert!(asked.elapsed() < PATIENCE, "not everything is indexed within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ids.len() as u64 - points(&data_dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_prompt_whose_offset_is_committed_is_missing_in_the_index() {
    for survivors in CUTS {
        let Some(disk) = disk(None) else { return };
        assert_eq!(lost_points(disk, survivors).await, 0, "{survivors:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_syncs_of_the_index_prompts_are_missing() {
    let Some(disk) = disk(Some(INDEX_IDS)) else { return };
    assert!(lost_points(disk, Survivors::OnlySynced).await > 0);
}
