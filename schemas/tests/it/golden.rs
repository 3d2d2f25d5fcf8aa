//! Bytes written with every schema of the history: the committed files stay readable for ever.

use std::fs;
use std::path::PathBuf;

use unprompt_schemas::codec::{decode, encode};
use unprompt_schemas::history::{self, Fingerprint};
use unprompt_schemas::records::*;

use crate::samples::Sample;

fn path(record: &str, fingerprint: &str, extension: &str) -> PathBuf {
    let name = format!("{record}.{fingerprint}.{extension}");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn reads_all_its_golden_files<R: Sample>() {
    let mut count = 0;
    for known in history::ALL.iter().filter(|known| known.record == R::NAME) {
        let bytes = fs::read(path(R::NAME, known.fingerprint, "avro"))
            .unwrap_or_else(|error| panic!("{} {}: no golden file ({error})", R::NAME, known.fingerprint));
        let text = fs::read_to_string(path(R::NAME, known.fingerprint, "json")).unwrap();
        let expected: R = serde_json::from_str(&text).unwrap();
        assert_eq!(decode::<R>(&bytes).unwrap(), expected, "{} {}", R::NAME, known.fingerprint);
        count += 1;
    }
    assert!(count > 0, "{} has no history", R::NAME);
}

fn writes_its_golden_file<R: Sample>() {
    let current = Fingerprint::of(R::schema()).to_string();
    assert_eq!(
        encode(&R::sample()).unwrap(),
        fs::read(path(R::NAME, &current, "avro")).unwrap(),
        "{}",
        R::NAME
    );
    let expected: R =
        serde_json::from_str(&fs::read_to_string(path(R::NAME, &current, "json")).unwrap()).unwrap();
    assert_eq!(R::sample(), expected, "the sample changed; the golden files stay");
}

#[test]
fn bytes_of_every_schema_are_read() {
    reads_all_its_golden_files::<Prompt>();
    reads_all_its_golden_files::<ImageEmbedding>();
    reads_all_its_golden_files::<PromptEmbedding>();
    reads_all_its_golden_files::<Head>();
    reads_all_its_golden_files::<Prediction>();
}

#[test]
fn the_same_record_gives_the_same_bytes() {
    writes_its_golden_file::<Prompt>();
    writes_its_golden_file::<ImageEmbedding>();
    writes_its_golden_file::<PromptEmbedding>();
    writes_its_golden_file::<Head>();
    writes_its_golden_file::<Prediction>();
}

fn write_missing<R: Sample>() {
    let current = Fingerprint::of(R::schema()).to_string();
    let avro = path(R::NAME, &current, "avro");
    if !avro.exists() {
        fs::write(avro, encode(&R::sample()).unwrap()).unwrap();
        let json = serde_json::to_string_pretty(&R::sample()).unwrap();
        fs::write(path(R::NAME, &current, "json"), json + "\n").unwrap();
    }
}

/// Run after a schema has changed: `cargo test -p unprompt-schemas write_missing -- --ignored`.
/// Existing files stay as they are.
#[test]
#[ignore = "writes files; run it once after a schema has changed"]
fn write_missing_golden_files() {
    write_missing::<Prompt>();
    write_missing::<ImageEmbedding>();
    write_missing::<PromptEmbedding>();
    write_missing::<Head>();
    write_missing::<Prediction>();
}
