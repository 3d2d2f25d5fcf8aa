//! A data directory written by an older binary opens and predicts the same.
//!
//! `tests/fixtures/data-directory/README.md` says which binary wrote it and how.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use unprompt_schemas::records::Prediction;

use crate::stack::{Up, answer};

/// The tolerance of a vector's component, a similarity, a weight and an expected cosine.
const TOLERANCE: f32 = 1e-5;

/// The older binary's counts and its prediction from the data directory.
#[derive(Debug, Deserialize)]
struct Expected {
    prompts_indexed: u64,
    /// By topic, as `topics list` counts them before the picture is published.
    offsets: BTreeMap<String, u64>,
    prediction: Prediction,
}

impl Expected {
    fn read() -> Self {
        let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/data-directory").join(name)
}

/// A folder with the data directory in it.
fn unpacked() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .args(["--extract", "--gzip", "--file"])
        .arg(fixture("data-directory.tar.gz"))
        .current_dir(folder.path())
        .status()
        .expect("tar runs");
    assert!(status.success(), "the fixture cannot be unpacked");
    folder
}

/// Starts in the folder that holds the data directory, because the announced path of the head's
/// file is relative to it.
fn start(folder: &Path, data_dir: &Path) -> Up {
    let checkpoint = |name: &str| {
        let path = repository().join("models/tiny-world/checkpoints").join(name);
        path.to_str().expect("the repository's path is text").to_owned()
    };
    let (clip, sd2) = (checkpoint("clip"), checkpoint("sd2"));
    let models = [("UNPROMPT__MODELS__CLIP", clip.as_str()), ("UNPROMPT__MODELS__SD2", sd2.as_str())];
    Up::start_in(folder, data_dir, &models)
}

fn json(data_dir: &Path, args: &[&str]) -> Value {
    let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
    serde_json::from_str(&answer(data_dir, &args)).unwrap()
}

fn predict(data_dir: &Path) -> Prediction {
    let picture = fixture("picture.png");
    serde_json::from_value(json(data_dir, &["predict", picture.to_str().unwrap()])).unwrap()
}

/// The offsets that `topics list` counts in a topic.
fn offsets(data_dir: &Path, topic: &str) -> u64 {
    let topics = json(data_dir, &["topics", "list"]);
    let state = topics.as_array().unwrap().iter().find(|state| state["topic"] == topic).unwrap();
    state["offsets"].as_u64().unwrap()
}

fn assert_close(what: &str, ours: &[f32], expected: &[f32]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let off = ours.iter().zip(expected).map(|(ours, expected)| (ours - expected).abs());
    let most = off.fold(0.0, f32::max);
    assert!(most <= TOLERANCE, "{what} is off by {most}");
}

fn assert_same_prediction(ours: &Prediction, expected: &Prediction) {
    let made_by = |of: &Prediction| {
        [Some(&of.encoder), of.head.as_ref(), Some(&of.index), Some(&of.blend)].map(Option::<&String>::cloned)
    };
    assert_eq!(made_by(ours), made_by(expected), "what made the prediction");
    assert_close("the vector", &ours.vector, &expected.vector);
    let part = |part: &Option<Vec<f32>>| part.clone().expect("both parts were there");
    assert_close("the neighbours' vector", &part(&ours.knn_vector), &part(&expected.knn_vector));
    assert_close("the head's vector", &part(&ours.head_vector), &part(&expected.head_vector));
    let cosine = |of: &Prediction| [of.expected_cosine.expect("the head is calibrated")];
    assert_close("the expected cosine", &cosine(ours), &cosine(expected));
    assert_same_neighbours(ours, expected);
}

fn assert_same_neighbours(ours: &Prediction, expected: &Prediction) {
    let prompts = |of: &Prediction| -> Vec<_> {
        of.neighbours.iter().map(|neighbour| (neighbour.prompt_id, neighbour.text.clone())).collect()
    };
    assert_eq!(prompts(ours), prompts(expected), "the neighbours or their order");
    let numbers = |of: &Prediction| -> Vec<f32> {
        of.neighbours.iter().flat_map(|neighbour| [neighbour.similarity, neighbour.weight]).collect()
    };
    assert_close("similarities and weights", &numbers(ours), &numbers(expected));
}

/// Given a data directory that an older binary wrote and stopped on, when the current binary starts
/// on it, then it has the same prompts, predicts the same for a picture, and repeats no work.
#[test]
fn a_data_directory_of_an_older_binary_opens_and_predicts_the_same() {
    let (folder, expected) = (unpacked(), Expected::read());
    let data_dir = folder.path().join("unprompt-data");
    let up = start(folder.path(), &data_dir);
    assert_same_prediction(&predict(&data_dir), &expected.prediction);
    assert_eq!(json(&data_dir, &["index", "stats"])["points"], expected.prompts_indexed);
    for (topic, before) in &expected.offsets {
        let published = ["images.v1", "image-embeddings.v1", "predictions.v1"].contains(&topic.as_str());
        assert_eq!(offsets(&data_dir, topic), before + u64::from(published), "{topic}");
    }
    assert!(up.terminate(), "a graceful stop ends with success");
}
