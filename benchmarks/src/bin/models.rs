//! Prints, as one JSON object, how fast our image encoders, Stable Diffusion's UNet and the preparation of pictures are on networks of
//! full size: the other half of benchmarks/models_peers.py.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use unprompt_models::encoder::{Engine, Precision, VisionSettings, VisionTower};
use unprompt_models::picture::{Limits, Pixels, Preprocessor, RgbImage, decode};
use unprompt_models::stable_diffusion::{GenerationParams, StableDiffusion};

/// Each measurement is the best of this many, as it is for the peers.
const ROUNDS: usize = 2;

#[derive(Deserialize)]
struct Work {
    /// Encoded pictures.
    pictures: Vec<PathBuf>,
    /// Folders of image encoders.
    encoders: Vec<PathBuf>,
    /// A diffusers folder, where steps of its UNet are wanted.
    sd: Option<PathBuf>,
    /// Sides of latents.
    latents: Vec<usize>,
}

fn main() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let work: Work = serde_json::from_str(&text)?;
    let encoded = work.pictures.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let mut found = Map::new();
    if let Some(folder) = work.encoders.first() {
        found.insert("preparation".into(), preparation(&encoded, folder)?);
    }
    for folder in &work.encoders {
        eprintln!("models: {}", folder.display());
        let name = folder.file_name().context("a folder has no name")?.to_string_lossy().into_owned();
        found.insert(name, encoder(folder, &encoded)?);
    }
    if let Some(folder) = &work.sd {
        found.insert("unet".into(), unet(folder, &work.latents)?);
    }
    found.insert("peak_bytes".into(), json!(peak_bytes()?));
    Ok(writeln!(std::io::stdout(), "{}", Value::Object(found))?)
}

/// The most memory that this process held.
fn peak_bytes() -> anyhow::Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("the kernel does not tell of memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}

/// Seconds of the fastest of some rounds.
fn best<E: Into<anyhow::Error>>(mut work: impl FnMut() -> Result<(), E>) -> anyhow::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work().map_err(Into::into)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Pictures a second on one thread: decoded, and decoded, resized, cut and normalised.
fn preparation(encoded: &[Vec<u8>], folder: &Path) -> anyhow::Result<Value> {
    let preprocessor = Preprocessor::load(&folder.join("preprocessor_config.json"))?;
    let limits = Limits::default();
    let decoding = best(|| {
        encoded
            .iter()
            .try_for_each(|bytes| decode(bytes, &limits).map(|picture| drop(std::hint::black_box(picture))))
    })?;
    let decoded = decode_all(encoded)?;
    let preparing = best(|| {
        decoded.iter().for_each(|picture| drop(std::hint::black_box(preprocessor.run(picture))));
        Ok::<_, anyhow::Error>(())
    })?;
    let count = encoded.len() as f64;
    Ok(json!({"decode": count / decoding, "preprocess": count / preparing}))
}

fn decode_all(encoded: &[Vec<u8>]) -> anyhow::Result<Vec<RgbImage>> {
    Ok(encoded.iter().map(|bytes| decode(bytes, &Limits::default())).collect::<Result<_, _>>()?)
}

/// Pictures a second on each engine and in each precision, the network alone and with preprocessing.
fn encoder(folder: &Path, encoded: &[Vec<u8>]) -> anyhow::Result<Value> {
    let decoded = decode_all(encoded)?;
    let ways = [
        ("openvino", Engine::OpenVino, Precision::F32),
        ("openvino-bf16", Engine::OpenVinoBf16, Precision::F32),
        ("candle", Engine::Candle, Precision::F32),
        ("candle bf16", Engine::Candle, Precision::Bf16),
    ];
    let mut found = Map::new();
    for (name, engine, precision) in ways {
        let tower = VisionTower::load(folder, &VisionSettings { side: None, precision, engine })?;
        let pixels: Vec<Pixels> = decoded.iter().map(|picture| tower.preprocess(picture)).collect();
        let pixels: Vec<&Pixels> = pixels.iter().collect();
        let alone = best(|| tower.embed(&pixels).map(drop))?;
        let both = best(|| {
            let pixels: Vec<Pixels> = decoded.iter().map(|picture| tower.preprocess(picture)).collect();
            tower.embed(&pixels.iter().collect::<Vec<_>>()).map(drop)
        })?;
        let count = encoded.len() as f64;
        let first = tower.embed(&pixels[..1])?.remove(0);
        found.insert(
            name.into(),
            json!({"network": count / alone, "with_preprocessing": count / both, "vector": first}),
        );
    }
    Ok(Value::Object(found))
}

/// Seconds of one step with guidance, which is a batch of two, for each side of latents and precision.
fn unet(folder: &Path, sides: &[usize]) -> anyhow::Result<Value> {
    let mut found = Map::new();
    for precision in [Precision::F32, Precision::Bf16] {
        eprintln!("models: {} in {precision}", folder.display());
        let model = StableDiffusion::load_in(folder, precision)?;
        for &side in sides {
            let initial = Tensor::randn(0f32, 1f32, (1, 4, side, side), &Device::Cpu)?;
            let run = |steps| {
                let params = GenerationParams { steps, ..GenerationParams::default() };
                best(|| model.denoise(&initial, &["a photograph of a fox"], &params, &[]).map(drop))
            };
            // The prompt is encoded once, whatever the steps.
            let seconds = run(2)? - run(1)?;
            found.insert(format!("{precision} {side}"), json!(seconds));
        }
    }
    Ok(Value::Object(found))
}
