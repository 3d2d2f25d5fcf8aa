//! Prints how many texts and pictures per second our engines embed, as one JSON object: our side of
//! benchmarks/peers.py.

mod texts;

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde_json::{Map, json};
use unprompt_benchmarks::{checkpoint, png, record};
use unprompt_image_encoder::{EncoderFolder, ImageEncoder};
use unprompt_models::encoder::VisionSettings;
use unprompt_models::picture::Limits;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::topics::Topic;
use unprompt_stream::Stage;

/// Each measurement is the best of this many, as for the peers.
const ROUNDS: usize = 3;

/// Reads {"texts": […], "folder": "…", "pictures": n} from stdin; files for the peers go into the
/// folder.
fn main() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let work: serde_json::Value = serde_json::from_str(&text)?;
    let texts: Vec<&str> =
        work["texts"].as_array().context("no texts")?.iter().filter_map(|t| t.as_str()).collect();
    let mut rates = Map::new();
    let folder = Path::new(work["folder"].as_str().context("no folder")?);
    rates.insert("minilm".into(), texts::engines(&texts, folder)?);
    rates.insert("text_encoder".into(), texts::text_encoder(&texts)?);
    let count = work["pictures"].as_u64().context("no pictures")? as usize;
    rates.insert("clip".into(), json!(clip_rate(count)?));
    // One line for the calling script.
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{}", serde_json::Value::Object(rates))?)
}

/// The image-encoder's stage, from records of encoded pictures to records of vectors.
fn clip_rate(count: usize) -> anyhow::Result<f64> {
    let folder = EncoderFolder { folder: checkpoint("clip"), settings: VisionSettings::default() };
    let mut stage = ImageEncoder::load(&[folder], Limits::default(), Codec::single_object())?;
    let records: Vec<_> = (0..count).map(|at| record(Topic::Images, at, png(at))).collect();
    best_rate(count, || -> anyhow::Result<()> {
        for batch in records.chunks(64) {
            stage.process(batch).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        }
        Ok(())
    })
}

fn best_rate<E: Into<anyhow::Error>>(
    count: usize,
    mut work: impl FnMut() -> Result<(), E>,
) -> anyhow::Result<f64> {
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work().map_err(Into::into)?;
        best = best.max(count as f64 / started.elapsed().as_secs_f64());
    }
    Ok(best)
}
