//! `unprompt index`: administration of the collection while nothing runs on the data directory.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Layout, PromptIndex, PromptPoint, Uuid};

use crate::stack::unprompt;

const PROMPTS: u64 = 400;

/// A value between -1 and 1 determined by its position.
fn value(number: u64, place: u64) -> f32 {
    let mixed = (number * 1_000_003 + place + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn prompt(number: u64) -> PromptPoint {
    let vector = |dim: u64, salt: u64| (0..dim).map(|place| value(number, place + salt)).collect();
    PromptPoint {
        prompt_id: Uuid::from_u128(u128::from(number) + 1),
        text: format!("a painting of {number} boats"),
        sources: vec![if number.is_multiple_of(4) { "harbour" } else { "sea" }.to_owned()],
        created_at_ms: 1000,
        version: None,
        attributes: [("style".to_owned(), "oil".to_owned())].into(),
        minilm: vector(384, 0),
        clip: vector(16, 500),
    }
}

/// Creates an index in the data directory and closes it.
async fn fill(data_dir: &Path) {
    let index = EmbeddedIndex::start(&data_dir.join("index"), 0).await.unwrap();
    let client = PromptIndex::connect(&index.url(), ConnectOptions::default()).await.unwrap();
    client.ensure(&Layout::new("clip@1", 16, "minilm@1")).await.unwrap();
    client.upsert((0..PROMPTS).map(prompt).collect()).await.unwrap();
    index.stop().await.unwrap();
}

fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    unprompt().arg("--data-dir").arg(data_dir).args(arguments).output().unwrap()
}

fn answer(data_dir: &Path, arguments: &[&str]) -> Value {
    let output = run(data_dir, &[&["--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(data_dir: &Path, arguments: &[&str]) -> String {
    let output = run(data_dir, arguments);
    assert!(!output.status.success(), "{arguments:?} was not refused");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_described_measured_snapshotted_dropped_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    fill(&data_dir).await;

    let stats = answer(&data_dir, &["index", "stats"]);
    assert_eq!((stats["points"].as_u64(), stats["state"].as_str()), (Some(PROMPTS), Some("ready")));
    assert_eq!((stats["profile"].as_str(), stats["encoder"].as_str()), (Some("balanced"), Some("clip@1")));
    assert_eq!(stats["sources"][0], serde_json::json!({"source": "sea", "prompts": 300}));
    assert_eq!(stats["quantised_bytes"].as_u64(), Some(PROMPTS * 400));
    assert!(stats["disk_bytes"].as_u64() > Some(0) && stats["process_bytes"].as_u64() > Some(0), "{stats}");
    let table = run(&data_dir, &["index", "stats"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("source harbour"));

    let recall = answer(&data_dir, &["index", "recall", "--queries", "20", "--k", "10", "--ef", "64,128"]);
    assert_eq!(recall["measured"][1]["ef"], 128);
    assert_eq!(recall["measured"][0]["recall"], 1.0, "so few are compared one by one");

    let copies = folder.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let copied = answer(&data_dir, &["index", "snapshot", copies.to_str().unwrap()]);
    assert_eq!(copied["points"].as_u64(), Some(PROMPTS));
    let file = copied["file"].as_str().unwrap();

    assert!(refusal(&data_dir, &["index", "drop"]).contains("--yes"));
    assert_eq!(answer(&data_dir, &["index", "drop", "--yes"])["prompts"].as_u64(), Some(PROMPTS));
    assert!(refusal(&data_dir, &["index", "stats"]).contains("no collection"));

    let restored = answer(&data_dir, &["index", "restore", file, "--profile", "small-memory"]);
    assert_eq!(restored, serde_json::json!({"points": PROMPTS, "already_there": 0}));
    let after = answer(&data_dir, &["index", "stats"]);
    assert_eq!((&after["points"], &after["sources"]), (&stats["points"], &stats["sources"]));
    assert_eq!((after["profile"].as_str(), after["bulk"].as_bool()), (Some("small-memory"), Some(false)));
    let again = answer(&data_dir, &["index", "restore", file]);
    assert_eq!(again["already_there"].as_u64(), Some(PROMPTS));

    let optimised = answer(&data_dir, &["index", "optimize", "--profile", "fastest"]);
    assert_eq!(
        (optimised["profile"].as_str(), optimised["points"].as_u64()),
        (Some("fastest"), Some(PROMPTS))
    );
}

#[test]
fn a_damaged_snapshot_and_a_data_directory_in_use_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let file = folder.path().join("prompts.parquet");
    std::fs::write(&file, "PAR1 and then nothing").unwrap();
    let said = refusal(&data_dir, &["index", "restore", file.to_str().unwrap()]);
    assert!(said.contains(file.to_str().unwrap()) && said.contains("another copy"), "{said}");
    let lock = unprompt_stream::data_dir::DataDir::lock(&data_dir, "this test").unwrap();
    let said = refusal(&data_dir, &["index", "stats"]);
    assert!(said.contains("in use"), "{said}");
    drop(lock);
}
