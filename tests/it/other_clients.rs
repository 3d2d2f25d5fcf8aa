//! Clients in other languages agree with ours: Python's qdrant-client on the index, fastavro on the
//! records.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stack::{Up, answer, talk, wait_for};

/// The interpreter that `make test` set up: $UNPROMPT_TEST_PYTHON, or the default location.
pub fn python(script: &str) -> Command {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let made = || cache.unwrap_or_else(home).join("unprompt/test-python/bin/python");
    let python = std::env::var_os("UNPROMPT_TEST_PYTHON").map(PathBuf::from).unwrap_or_else(made);
    assert!(python.is_file(), "{} is not there; `make test` sets it up", python.display());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(script));
    command
}

pub fn must_succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{stdout}{stderr}");
    stdout.into_owned()
}

#[test]
fn pythons_qdrant_client_gets_the_answers_of_a_qdrant_server() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let file = folder.path().join("animals.txt");
    std::fs::write(&file, "a red fox in the snow\na grey whale\nan owl at night\n").unwrap();
    answer(folder.path(), &["prompts", "import", file.to_str().unwrap()]);
    wait_for("three indexed prompts", || {
        let output = talk(folder.path(), &["--json", "query", "--text", "an animal"]);
        let hits: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (hits.as_array()?.len() == 3).then_some(())
    });
    let address = up.qdrant.to_string();
    let found = must_succeed(python("tests/python/search_prompts.py").args([&address, "animals", "3"]));
    assert_eq!(found.lines().count(), 3, "{found}");
    must_succeed(python("embedded/index/tools/check_with_qdrant_client.py").arg(format!("http://{address}")));
}

#[test]
fn fastavro_reads_and_writes_the_golden_bytes_alike() {
    let checked = must_succeed(&mut python("schemas/tools/check_with_fastavro.py"));
    assert!(checked.lines().count() >= 5, "{checked}");
}
