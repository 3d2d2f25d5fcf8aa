//! The verdict: the topics as seen by a consumer that shares no code with the services
//! (kafka-python, witness.py).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::json;
use unprompt_schemas::topics::Topic;

use crate::feed::NUMBER_HEADER;
use crate::world::World;

/// The records of a topic, by the numbers of their pictures.
#[derive(Debug, Deserialize)]
pub struct Seen {
    /// The numbers found.
    pub numbers: BTreeSet<usize>,
    /// Records after the first one of their number.
    pub repeated: usize,
    /// Repeated records whose value differs from the first one's.
    pub repeated_otherwise: usize,
    /// Records without a number, which this run did not write.
    pub strangers: usize,
}

/// Reads the committed records of `topic`, from its beginning to its end.
pub fn read(python: &Path, world: &World, topic: Topic) -> anyhow::Result<Seen> {
    let asked = json!({
        "brokers": world.kafka.brokers,
        "topic": world.kafka.prefix.name(topic),
        "header": NUMBER_HEADER,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("witness.py");
    let answer = Command::new(python)
        .arg(script)
        .arg(asked.to_string())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} runs; `make test` sets it up", python.display()))?;
    ensure!(answer.status.success(), "the witness of {topic} ended with {}", answer.status);
    serde_json::from_slice(&answer.stdout).context("the witness answers in JSON")
}
