//! `unprompt generate`: pictures of many prompts, in spite of interruptions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::stack::{unprompt, wait_for};

const PROMPTS: usize = 150;

fn table(folder: &Path) -> PathBuf {
    let path = folder.join("prompts.parquet");
    let sample = ["prompts", "sample", "--distinct", "-n", &PROMPTS.to_string(), "--out"];
    succeeds(unprompt().args(sample).arg(&path).output().unwrap());
    path
}

fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The data directory is derived from `out`, so that runs with different outputs are independent.
fn generate(table: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = unprompt();
    command.args(["--json", "--data-dir"]).arg(out.with_extension("data"));
    command.args(["generate", "--from"]).arg(table).arg("--out").arg(out).args(more);
    command.env("UNPROMPT__GENERATOR__STEPS", "3").env("UNPROMPT__GENERATOR__BATCH", "4");
    command
}

/// All pictures of a folder by name, and the lines that describe them.
fn pictures(folder: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<Value>) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pngs = files.filter(|path| path.extension().is_some_and(|end| end == "png"));
    let named = pngs
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()));
    let lines = std::fs::read_to_string(folder.join("metadata.jsonl")).unwrap();
    (named.collect(), lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn a_killed_and_resumed_run_draws_every_picture_once() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path());
    let (calm, struck) = (folder.path().join("calm"), folder.path().join("struck"));
    let fixed = ["--seeds", "2", "--first-seed", "5"];
    let told: Value =
        serde_json::from_str(&succeeds(generate(&table, &calm, &fixed).output().unwrap())).unwrap();
    assert_eq!(told["drawn"], 2 * PROMPTS);
    assert!(told["device_days_a_million"].as_f64().unwrap() > 0.0, "{told}");

    for at_least in [1, 60] {
        let mut child = generate(&table, &struck, &fixed).stdout(Stdio::null()).spawn().unwrap();
        wait_for("pictures to be drawn", || {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
            let drawn = std::fs::read_dir(&struck).map_or(0, Iterator::count);
            (drawn > at_least).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let rest: Value =
        serde_json::from_str(&succeeds(generate(&table, &struck, &fixed).output().unwrap())).unwrap();
    let left = 2 * PROMPTS as u64 - 60;
    assert!(rest["drawn"].as_u64().unwrap() <= left, "existing pictures were drawn again: {rest}");
    let ((calm, lines), (struck, struck_lines)) = (pictures(&calm), pictures(&struck));
    assert_eq!(calm.len(), 2 * PROMPTS);
    assert!(calm == struck, "the pictures are not those of an undisturbed run");
    assert_eq!((lines.len(), struck_lines.len()), (2 * PROMPTS, 2 * PROMPTS));
    assert!(lines.iter().all(|line| [5, 6].contains(&line["seed"].as_i64().unwrap())));
}

#[test]
fn workers_share_the_prompts_and_never_repeat_a_seed() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path());
    let mut prompts = std::collections::BTreeSet::new();
    let mut seeds = std::collections::BTreeSet::new();
    for part in ["1/3", "2/3", "3/3"] {
        let out = folder.path().join(part.replace('/', "of"));
        succeeds(generate(&table, &out, &["--part", part]).output().unwrap());
        let (_, lines) = pictures(&out);
        assert!(!lines.is_empty() && lines.len() < PROMPTS);
        for line in lines {
            assert!(prompts.insert(line["prompt"].to_string()), "{line} was drawn by two workers");
            assert!(seeds.insert(line["seed"].as_i64().unwrap()), "{line} has the seed of another picture");
        }
    }
    assert_eq!(prompts.len(), PROMPTS);
}

#[test]
fn a_resumed_parquet_run_is_complete_and_refuses_other_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (table, out) = (table(folder.path()), folder.path().join("pictures"));
    let parquet = ["--parquet", "--rows", "25"];
    let mut child = generate(&table, &out, &parquet).stdout(Stdio::null()).spawn().unwrap();
    wait_for("a file to be full", || {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        out.join("part-00000.parquet").is_file().then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let mut other = generate(&table, &out, &parquet);
    let refused = other.env("UNPROMPT__GENERATOR__STEPS", "4").output().unwrap();
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && reason.contains("--restart"), "{reason}");
    succeeds(generate(&table, &out, &parquet).output().unwrap());
    let mut files: Vec<_> =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert!((5..=6).contains(&files.len()), "{files:?}");
    // The files can be read as prompts: each row is one.
    let mut count = unprompt();
    count.args(["--json", "prompts", "import", "--dry-run", "--keep-duplicates"]).arg(&out);
    let read: Value = serde_json::from_str(&succeeds(count.output().unwrap())).unwrap();
    assert_eq!(read["report"]["kept"], PROMPTS, "{read}");
}
