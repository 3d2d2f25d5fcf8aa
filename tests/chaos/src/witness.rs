//! The verdict: what a consumer saw that shares no code with the services (kafka-python, witness.py).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::json;
use unprompt_schemas::topics::Topic;

use crate::feed::NUMBER_HEADER;
use crate::world::World;

/// What stands in a topic, by the numbers that the pictures were published with.
#[derive(Debug, Deserialize)]
pub struct Seen {
    /// Each number that is there.
    pub numbers: BTreeSet<usize>,
    /// Records beyond the first of their number.
    pub repeated: usize,
    /// Of those, the ones whose value is another than the first's.
    pub repeated_otherwise: usize,
    /// Records without a number: nobody here wrote them.
    pub strangers: usize,
}

/// Reads what of `topic` is committed, from its beginning to its end.
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
