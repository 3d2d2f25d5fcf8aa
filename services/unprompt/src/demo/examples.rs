//! Keeps a few held-out pictures as files, and shows their predictions beside them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use comfy_table::Table;
use unprompt_jobs::evaluation::{Scored, Truth, TruthLine};
use unprompt_models::metrics::cosine;

use crate::output;

/// Number of pictures to keep.
const KEPT: usize = 8;

/// A picture and its prediction.
#[derive(Debug)]
pub struct Example {
    pub file: PathBuf,
    /// The prompt that made the picture. Neither index nor trainer has seen it.
    truth: String,
    /// The nearest indexed prompt.
    nearest: String,
    cosine: f32,
    expected_cosine: Option<f32>,
}

/// Writes the first pictures into `folder` and returns the prediction of each.
pub fn keep(
    folder: &Path,
    pictures: &[(Vec<u8>, String)],
    scored: &[Scored],
) -> anyhow::Result<Vec<Example>> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    let mut examples = Vec::new();
    for (at, (bytes, text)) in pictures.iter().take(KEPT).enumerate() {
        let file = folder.join(format!("{}.png", at + 1));
        std::fs::write(&file, bytes).with_context(|| format!("{} cannot be written", file.display()))?;
        examples.extend(scored.iter().find(|one| one.text == *text).map(|one| example(file, one)));
    }
    Ok(examples)
}

/// Writes the prompt of each picture in the format of `unprompt evaluate --truth`.
pub fn keep_truth(folder: &Path, truth: &Truth) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    let mut lines = String::new();
    for (image_id, text) in truth {
        let line = TruthLine { image_id: *image_id, text: text.clone() };
        lines.push_str(&serde_json::to_string(&line)?);
        lines.push('\n');
    }
    let file = folder.join("truth.jsonl");
    std::fs::write(&file, lines).with_context(|| format!("{} cannot be written", file.display()))
}

fn example(file: PathBuf, scored: &Scored) -> Example {
    let prediction = &scored.prediction;
    Example {
        file,
        truth: scored.text.clone(),
        nearest: prediction.neighbours.first().map(|one| one.text.clone()).unwrap_or_default(),
        cosine: cosine(&prediction.vector, &scored.truth),
        expected_cosine: prediction.expected_cosine,
    }
}

/// Returns the examples as a table.
pub fn table(examples: &[Example]) -> Table {
    let mut table = output::table(["picture", "made from", "nearest indexed prompt", "cosine", "expected"]);
    for one in examples {
        let name = one.file.file_name().unwrap_or_default().to_string_lossy();
        let expected = one.expected_cosine.map_or_else(String::new, |expected| format!("{expected:.2}"));
        table.add_row([&*name, &one.truth, &one.nearest, &format!("{:.2}", one.cosine), &expected]);
    }
    table
}
