//! `unprompt index build`: from files to the collection, in spite of interruptions.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::Value;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Filter, PromptIndex};

use crate::stack::{unprompt, wait_for};

/// Three chunks of rows.
const PROMPTS: usize = 10_000;

/// A table of prompts from the grammar, made by the binary.
fn table(folder: &Path) -> PathBuf {
    let path = folder.join("prompts.parquet");
    let count = PROMPTS.to_string();
    let sample = ["prompts", "sample", "-n", &count, "--out"];
    succeeds(unprompt().args(sample).arg(&path).output().unwrap());
    path
}

fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn on(data_dir: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = unprompt();
    command.args(["--json", "--data-dir"]).arg(data_dir).args(arguments);
    command
}

fn json(data_dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(on(data_dir, arguments).output().unwrap())).unwrap()
}

fn build(data_dir: &Path, table: &Path, more: &[&str]) -> std::process::Command {
    let mut command = on(data_dir, &["index", "build"]);
    command.arg(table).args(more);
    command
}

/// The number of acknowledged rows in the checkpoint of a running build.
fn acknowledged(data_dir: &Path) -> u64 {
    let files = std::fs::read_dir(data_dir.join("builds")).into_iter().flatten().flatten();
    let mut checkpoints = files.filter(|file| file.path().extension().is_some_and(|end| end == "json"));
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok();
    checkpoints.find_map(|file| read(file.path())?["acknowledged"].as_u64()).unwrap_or(0)
}

fn kill_after(mut child: Child, data_dir: &Path, rows: u64) {
    wait_for("rows to be acknowledged", || {
        assert!(child.try_wait().unwrap().is_none(), "the build ended before it could be killed");
        (acknowledged(data_dir) >= rows).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The whole collection with its vectors, as bytes.
fn exported(data_dir: &Path, folder: &Path) -> Vec<u8> {
    let path = folder.join("export.parquet");
    let _ = std::fs::remove_file(&path);
    succeeds(on(data_dir, &["index", "export", path.to_str().unwrap(), "--with-vectors"]).output().unwrap());
    std::fs::read(path).unwrap()
}

#[test]
fn a_killed_and_resumed_build_gives_the_same_collection() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path());
    let (calm, struck) = (folder.path().join("calm"), folder.path().join("struck"));
    let near = ["--near-duplicate", "0.99"];

    let whole = succeeds(build(&calm, &table, &near).output().unwrap());
    let whole: Value = serde_json::from_str(&whole).unwrap();
    for rows in [1, 4_097] {
        let child = build(&struck, &table, &near).stdout(Stdio::null()).spawn().unwrap();
        kill_after(child, &struck, rows);
    }
    let last = succeeds(build(&struck, &table, &near).output().unwrap());
    let last: Value = serde_json::from_str(&last).unwrap();

    let (report, count) = (&whole["report"], |value: &Value| value.as_u64().unwrap());
    assert_eq!(count(&report["read"]), PROMPTS as u64);
    assert_eq!(count(&report["kept"]), count(&whole["points"]));
    let dropped = count(&report["dropped"]["near-duplicate"]["count"]);
    assert!((1..PROMPTS as u64 / 2).contains(&dropped), "{dropped} near duplicates of {PROMPTS}");
    assert!(count(&last["indexed_before"]) > 0, "{last}");
    for part in ["read", "kept"] {
        assert_eq!(last["report"][part], report[part], "{part}");
    }
    assert_eq!(count(&last["report"]["dropped"]["near-duplicate"]["count"]), dropped);
    assert!(exported(&calm, folder.path()) == exported(&struck, folder.path()), "the collections differ");
    assert_eq!(acknowledged(&struck), 0, "the record of the finished build is left");

    let stats = json(&struck, &["index", "stats"]);
    assert_eq!(stats["points"], whole["points"]);
    let found = json(&struck, &["query", "--text", "a red star", "-n", "3"]);
    assert_eq!(found.as_array().map(Vec::len), Some(3), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_waits_for_an_unavailable_index_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (table, data_dir, index_dir) =
        (table(folder.path()), folder.path().join("data"), folder.path().join("index"));
    let index = EmbeddedIndex::start(&index_dir, 0).await.unwrap();
    let (url, port) = (index.url(), index.address().port());
    let mut child =
        build(&data_dir, &table, &["--qdrant", &url, "--no-graph"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("rows to be acknowledged", || (acknowledged(&data_dir) > 0).then_some(()));
    index.stop().await.unwrap();
    // By then it has rows to write and no index to write them to.
    let stood = acknowledged(&data_dir);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(child.try_wait().unwrap().is_none(), "the build gave up");
    let index = EmbeddedIndex::start(&index_dir, port).await.unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let said: Value = serde_json::from_str(&succeeds(output)).unwrap();
    assert!(stood < PROMPTS as u64, "the index went away too late");
    let client = PromptIndex::connect(&url, ConnectOptions::default()).await.unwrap();
    let kept = said["report"]["kept"].as_u64().unwrap();
    // The grammar repeats itself now and then.
    assert!(kept > PROMPTS as u64 * 9 / 10, "{kept}");
    assert_eq!(client.count(&Filter::default()).await.unwrap(), kept);
    index.stop().await.unwrap();
}

#[test]
fn a_build_with_other_options_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (table, data_dir) = (table(folder.path()), folder.path().join("data"));
    let child = build(&data_dir, &table, &[]).stdout(Stdio::null()).spawn().unwrap();
    kill_after(child, &data_dir, 1);
    let refused = build(&data_dir, &table, &["--max-chars", "40"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("--restart"), "{text}");
}
