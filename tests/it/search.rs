//! Searching and exporting from the command line, with and without a running stack.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::stack::{Up, answer, talk, unprompt, wait_for};

const WIKI: [&str; 4] = [
    "a red star over the sea",
    "a red star over the seas",
    "star, red and blue",
    "a red starfish on a beach",
];
const USERS: [&str; 3] = ["a blue house in the snow", "A RED STAR", "a green field under the moon"];

/// Imports the prompts and waits until a search finds them.
fn import(folder: &Path, data_dir: &Path) {
    for (source, texts) in [("wiki", &WIKI[..]), ("users", &USERS[..])] {
        let file = folder.join(format!("{source}.txt"));
        std::fs::write(&file, texts.join("\n")).unwrap();
        answer(data_dir, &["prompts", "import", file.to_str().unwrap(), "--source", source]);
    }
    wait_for("indexed prompts", || {
        let output = talk(data_dir, &["--json", "query", "--text", "a star", "-n", "50"]);
        let hits: Value = serde_json::from_slice(&output.stdout).ok()?;
        (hits.as_array()?.len() == WIKI.len() + USERS.len()).then_some(())
    });
}

fn query(data_dir: &Path, flags: &[&str]) -> Vec<Value> {
    let flags = ["--json", "query", "--text", "a red star"].iter().chain(flags).copied();
    serde_json::from_str(&answer(data_dir, &flags.collect::<Vec<_>>())).unwrap()
}

fn texts(hits: &[Value]) -> BTreeSet<&str> {
    hits.iter().map(|hit| hit["text"].as_str().unwrap()).collect()
}

#[test]
fn searches_and_exports_agree_with_and_without_a_running_stack() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let up = Up::start(&data_dir);
    import(folder.path(), &data_dir);
    filters_keep_what_they_say(&data_dir);
    answers_differ_when_asked_to(&data_dir);
    a_batch_answers_every_line_in_its_place(&data_dir);
    let beside = exported(folder.path(), &data_dir, "beside.csv");
    assert!(up.terminate());
    assert_eq!(query(&data_dir, &["-n", "1", "--exact"])[0]["text"], "A RED STAR");
    assert_eq!(exported(folder.path(), &data_dir, "without.csv"), beside);
    tables_are_whole_or_not_there(folder.path(), &data_dir);
}

fn filters_keep_what_they_say(data_dir: &Path) {
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--words", "STAR red"], &[WIKI[0], WIKI[1], WIKI[2], USERS[1]]),
        (&["--phrase", "red star"], &[WIKI[0], WIKI[1], USERS[1]]),
        (&["--contains", "red st"], &[WIKI[0], WIKI[1], WIKI[3]]),
        (&["--contains", "red st", "--max-length", "23"], &[WIKI[0]]),
        (&["--source", "users", "--min-length", "11"], &[USERS[0], USERS[2]]),
        (&["--not-source", "wiki", "--since", "2020-01-01"], &USERS),
        (&["--before", "2020-01-01T00:00:00Z"], &[]),
        (&["--using", "clip", "--source", "wiki", "--exact"], &WIKI),
    ];
    for (flags, expected) in cases {
        let hits = query(data_dir, flags);
        assert_eq!(texts(&hits), expected.iter().copied().collect(), "{flags:?}");
    }
    let near = query(data_dir, &["--threshold", "0.95"]);
    assert!(texts(&near).contains("A RED STAR") && near.len() < 7, "{near:?}");
    let pages =
        [query(data_dir, &["-n", "4", "--exact"]), query(data_dir, &["-n", "4", "--offset", "4", "--exact"])];
    assert_eq!(texts(&pages.concat()).len(), 7, "two pages hold all of them once");
    let refused = talk(data_dir, &["query", "--text", "x", "-n", "10001"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("10000"), "{said}");
}

fn answers_differ_when_asked_to(data_dir: &Path) {
    let grouped = query(data_dir, &["--group", "0.9"]);
    let sea = grouped.iter().find(|hit| hit["text"].as_str().unwrap().contains("over the sea")).unwrap();
    let under = sea["near_duplicates"].as_array().unwrap();
    assert!(under.iter().any(|near| near["text"].as_str().unwrap().contains("over the sea")), "{grouped:?}");
    let table = answer(data_dir, &["query", "--text", "a red star", "--group", "0.9"]);
    assert!(table.contains("near duplicates"), "{table}");
    let spread = query(data_dir, &["--mmr", "0", "-n", "2", "--with-vectors"]);
    assert_eq!(spread[0]["text"], "A RED STAR");
    assert!(!spread[1]["text"].as_str().unwrap().contains("star"), "{}", spread[1]["text"]);
    assert_eq!(spread[0]["minilm"].as_array().map(Vec::len), Some(384));
}

fn a_batch_answers_every_line_in_its_place(data_dir: &Path) {
    let id = query(data_dir, &["-n", "1"])[0]["prompt_id"].clone();
    let lines = [
        json!({"text": "a red star", "limit": 1}).to_string(),
        "nonsense".into(),
        json!({"like": id, "limit": 2, "filter": {"sources": ["wiki"]}}).to_string(),
        json!({"like": "ffffffff-0000-0000-0000-000000000000"}).to_string(),
        json!({"image_file": "/no/such/picture.png"}).to_string(),
        json!({"text": "snow", "using": "clip"}).to_string(),
    ];
    let mut child = unprompt()
        .arg("--data-dir")
        .arg(data_dir)
        .args(["query", "--batch", "-", "-n", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("3 of 6 searches failed"), "{said}");
    let rows: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let lines: Vec<_> = rows.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6]);
    let hits: Vec<_> = rows.iter().map(|row| row["hits"].as_array().map(Vec::len)).collect();
    assert_eq!(hits, [Some(1), None, Some(2), None, None, Some(3)]);
    assert_eq!(rows[0]["hits"][0]["text"], "A RED STAR");
    assert!(rows[3]["error"].as_str().unwrap().contains("no prompt ffffffff"), "{}", rows[3]);
    assert!(rows[4]["error"].as_str().unwrap().contains("/no/such/picture.png"), "{}", rows[4]);
}

/// The lines of the whole collection as CSV.
fn exported(folder: &Path, data_dir: &Path, name: &str) -> BTreeSet<String> {
    let file = folder.join(name);
    answer(data_dir, &["index", "export", file.to_str().unwrap()]);
    let lines: BTreeSet<String> =
        std::fs::read_to_string(file).unwrap().lines().map(ToOwned::to_owned).collect();
    assert_eq!(lines.len(), WIKI.len() + USERS.len() + 1, "{lines:?}");
    lines
}

fn tables_are_whole_or_not_there(folder: &Path, data_dir: &Path) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let jsonl = path("wiki.jsonl");
    let report = answer(
        data_dir,
        &["--json", "index", "export", &jsonl, "--source", "wiki", "--with-vectors", "--limit", "3"],
    );
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap()["exported"], 3);
    let rows: Vec<Value> = std::fs::read_to_string(&jsonl)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row["sources"] == json!(["wiki"])));
    assert!(rows.iter().all(|row| row["minilm"].as_array().map(Vec::len) == Some(384)));

    let parquet = path("near.parquet");
    answer(data_dir, &["query", "--text", "a red star", "-n", "2", "--out", &parquet]);
    assert!(std::fs::read(&parquet).unwrap().ends_with(b"PAR1"));
    let csv = path("near.csv");
    answer(data_dir, &["query", "--text", "a red star", "-n", "2", "--out", &csv]);
    let csv = std::fs::read_to_string(csv).unwrap();
    assert!(csv.lines().next().unwrap().contains("similarity") && csv.lines().count() == 3, "{csv}");

    let refused = talk(data_dir, &["index", "export", &path("prompts.docx")]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(".parquet"));
    let left = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("docx")).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
}
