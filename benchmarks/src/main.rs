//! Prints, as one JSON object, how many texts and pictures a second our engines embed: the other half of benchmarks/peers.py.

use std::io::Read;
use std::time::Instant;

use anyhow::Context;
use serde_json::{Map, json};
use unprompt_benchmarks::{checkpoint, minilm, png};
use unprompt_models::clip::ClipVision;
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_models::picture::{self, Limits};

/// Each measurement is the best of this many, as it is for the peers.
const ROUNDS: usize = 3;

/// Reads {"texts": […], "pictures": n} from stdin.
fn main() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let work: serde_json::Value = serde_json::from_str(&text)?;
    let texts: Vec<&str> =
        work["texts"].as_array().context("no texts")?.iter().filter_map(|t| t.as_str()).collect();
    let mut rates = Map::new();
    for (name, engine) in [("minilm_onnx", Engine::Onnx), ("minilm_candle", Engine::Candle)] {
        let mut model = MiniLm::load(&minilm(), engine)?;
        let rate = best_rate(texts.len(), || model.embed(&texts).map(drop))?;
        rates.insert(name.into(), json!(rate));
    }
    let count = work["pictures"].as_u64().context("no pictures")? as usize;
    rates.insert("clip".into(), json!(clip_rate(count)?));
    // One line for the script that called.
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{}", serde_json::Value::Object(rates))?)
}

/// From encoded pictures to vectors: decoding and preprocessing count.
fn clip_rate(count: usize) -> anyhow::Result<f64> {
    let clip = ClipVision::load(&checkpoint("clip"))?;
    let encoded: Vec<Vec<u8>> = (0..count).map(png).collect();
    let limits = Limits::default();
    best_rate(count, || -> anyhow::Result<()> {
        for chunk in encoded.chunks(32) {
            let pixels: Vec<_> = chunk
                .iter()
                .map(|bytes| Ok(clip.preprocess(&picture::decode(bytes, &limits)?)))
                .collect::<anyhow::Result<_>>()?;
            clip.embed(&pixels.iter().collect::<Vec<_>>())?;
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
