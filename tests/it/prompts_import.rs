//! `unprompt prompts import` as a user runs it: many kinds of files, a report, and resuming a
//! stopped run.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;

use crate::stack::{Up, answer, read, talk, unprompt, wait_for};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A table of prompts from the grammar.
fn sample(data_dir: &Path, path: &Path, count: usize) {
    let out = path.to_str().unwrap();
    answer(data_dir, &["prompts", "sample", "-n", &count.to_string(), "--seed", "3", "--out", out]);
}

#[test]
fn a_dry_run_reads_cleans_and_reports_without_any_server() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let table = folder.path().join("p.parquet");
    sample(&data_dir, &table, 500);
    let lines = folder.path().join("q.csv");
    std::fs::write(
        &lines,
        "prompt,score\na red star,4\n\"a  red star\",6\nрыжий кот спит на подоконнике,9\nbroken\n",
    )
    .unwrap();
    let report = folder.path().join("report.json");
    let args =
        ["--json", "prompts", "import", "--dry-run", "--language", "en", "--max-tokens", "200", "--report"];
    let args =
        [&args[..], &[report.to_str().unwrap(), table.to_str().unwrap(), lines.to_str().unwrap()]].concat();
    let told = json(&answer(&data_dir, &args));
    assert_eq!((told["published"].as_u64(), told["skipped"].as_u64()), (Some(0), Some(3)), "{told}");
    assert_eq!(told["report"]["kept"], 501);
    for reason in ["duplicate", "language", "field-count"] {
        assert_eq!(told["report"]["dropped"][reason]["count"], 1, "{reason}: {told}");
    }
    assert_eq!(told["report"]["inputs"][0]["format"], "parquet");
    assert_eq!(json(&std::fs::read_to_string(&report).unwrap()), told["report"]);

    let words = answer(&data_dir, &["prompts", "import", "--dry-run", lines.to_str().unwrap()]);
    assert!(words.contains("exact duplicate") && words.contains("nothing was published"), "{words}");
}

#[test]
fn unreadable_inputs_and_invalid_options_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("t.csv");
    std::fs::write(&csv, "one,two\n1,2\n").unwrap();
    let csv = csv.to_str().unwrap();
    let refused: [(&[&str], &str); 5] = [
        (&["/nowhere/at/all.parquet"], "/nowhere/at/all.parquet"),
        (&[csv], "--column text=NAME"),
        (&["--format", "xml", csv], "diffusion-db"),
        (&["--column", "colour=one", csv], "MEANING=COLUMN"),
        (&["--language", "klingon", "--column", "text=one", csv], "klingon"),
    ];
    for (args, wanted) in refused {
        let output = talk(folder.path(), &[&["prompts", "import", "--dry-run"], args].concat());
        assert!(
            !output.status.success() && stderr(&output).contains(wanted),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_import_resumes_where_it_stopped_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let table = folder.path().join("many.parquet");
    let count = 60_000;
    sample(&data_dir, &table, count);
    let up = Up::start(&data_dir);
    let import = || {
        let mut command = unprompt();
        command.arg("--data-dir").arg(&data_dir).args(["--json", "prompts", "import"]).arg(&table);
        command
    };
    let stopped = import().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let imports = data_dir.join("imports");
    wait_for("a checkpoint", || std::fs::read_dir(&imports).ok()?.next()).unwrap();
    let pid = stopped.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let output = stopped.wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains("repeat the command"), "{said}");

    let other = import().args(["--min-chars", "9"]).output().unwrap();
    assert!(stderr(&other).contains("--restart"), "other options resumed it: {}", stderr(&other));

    let second = import().output().unwrap();
    let told = json(&String::from_utf8(second.stdout.clone()).unwrap());
    let kept = told["report"]["kept"].as_u64().unwrap();
    let (before, published) =
        (told["published_before"].as_u64().unwrap(), told["published"].as_u64().unwrap());
    assert!(before > 0 && published > 0 && before + published == kept, "{told}");
    assert_eq!(told["report"]["read"], count);
    let records = read(&up.kafka, Topic::Prompts).await;
    let codec = Codec::single_object();
    let texts: HashSet<String> = records
        .iter()
        .map(|record| codec.decode::<Prompt>(record.value.as_deref().unwrap()).unwrap().text)
        .collect();
    // The grammar repeats some prompts.
    assert!(kept > count as u64 / 2);
    assert_eq!(texts.len() as u64, kept, "nothing is lost");
    assert_eq!(records.len() as u64, kept, "nothing that was acknowledged is published again");
    assert!(std::fs::read_dir(&imports).unwrap().next().is_none(), "the checkpoint is left behind");
}
