//! Prints the speed of our image encoders, Stable Diffusion and picture preparation on full-size
//! networks, as one JSON object: our side of benchmarks/models_peers.py and
//! benchmarks/cuda_peers.py.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use unprompt_models::encoder::{Engine, Precision, VisionSettings, VisionTower};
use unprompt_models::picture::{Limits, Pixels, Preprocessor, RgbImage, decode};
use unprompt_models::stable_diffusion::{GenerationParams, GenerationRequest, StableDiffusion};

/// Each measurement is the best of this many, as for the peers.
const ROUNDS: usize = 2;

#[derive(Deserialize)]
struct Workload {
    /// Encoded pictures.
    pictures: Vec<PathBuf>,
    /// Folders of image encoders; the first one has a preprocessor_config.json if preparation is
    /// measured.
    encoders: Vec<PathBuf>,
    #[serde(default = "yes")]
    preparation: bool,
    /// Engines and precisions to run encoders with; if empty, the processor's.
    #[serde(default)]
    ways: Vec<(String, String)>,
    /// A diffusers folder.
    sd: Option<PathBuf>,
    /// Sides of latents for which UNet steps are measured.
    #[serde(default)]
    latents: Vec<usize>,
    /// The measurement of whole pictures, if requested.
    drawings: Option<Drawings>,
}

fn yes() -> bool {
    true
}

/// Pictures from prompt to pixels: every side with every batch size.
#[derive(Deserialize)]
struct Drawings {
    precision: String,
    steps: usize,
    sides: Vec<usize>,
    batches: Vec<usize>,
    /// [4, side / 8, side / 8] of the first side: initial latents whose result the peer compares.
    initial: Vec<f32>,
}

const PROMPT: &str = "a photograph of a fox";

fn main() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let work: Workload = serde_json::from_str(&text)?;
    let encoded = work.pictures.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let mut found = Map::new();
    if let Some(folder) = work.encoders.first().filter(|_| work.preparation) {
        found.insert("preparation".into(), preparation(&encoded, folder)?);
    }
    for folder in &work.encoders {
        eprintln!("models: {}", folder.display());
        let name = folder.file_name().context("a folder has no name")?.to_string_lossy().into_owned();
        found.insert(name, encoder(folder, &encoded, &ways(&work.ways)?)?);
    }
    if let Some(folder) = work.sd.as_ref().filter(|_| !work.latents.is_empty()) {
        found.insert("unet".into(), unet(folder, &work.latents)?);
    }
    if let (Some(folder), Some(drawings)) = (&work.sd, &work.drawings) {
        found.insert("drawings".into(), draw(folder, drawings)?);
    }
    found.insert("peak_bytes".into(), json!(peak_bytes()?));
    Ok(writeln!(std::io::stdout(), "{}", Value::Object(found))?)
}

/// The peak memory of this process.
fn peak_bytes() -> anyhow::Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("the kernel does not tell of memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}

/// The seconds of the fastest round.
fn best<E: Into<anyhow::Error>>(mut work: impl FnMut() -> Result<(), E>) -> anyhow::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work().map_err(Into::into)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Pictures per second on one thread: decoded only; and decoded, resized, cropped and normalised.
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

fn ways(wanted: &[(String, String)]) -> anyhow::Result<Vec<(Engine, Precision)>> {
    if wanted.is_empty() {
        let engines = [Engine::OpenVino, Engine::OpenVinoBf16, Engine::Candle];
        let plain = engines.map(|engine| (engine, Precision::F32));
        return Ok(plain.into_iter().chain([(Engine::Candle, Precision::Bf16)]).collect());
    }
    wanted.iter().map(|(engine, precision)| Ok((engine.parse()?, precision.parse()?))).collect()
}

/// Pictures per second with each engine and precision: the network alone, and with preprocessing.
fn encoder(folder: &Path, encoded: &[Vec<u8>], ways: &[(Engine, Precision)]) -> anyhow::Result<Value> {
    let decoded = decode_all(encoded)?;
    let mut found = Map::new();
    for &(engine, precision) in ways {
        let name = match precision {
            Precision::F32 => engine.to_string(),
            _ => format!("{engine} {precision}"),
        };
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
            name,
            json!({"network": count / alone, "with_preprocessing": count / both, "vector": first}),
        );
    }
    Ok(Value::Object(found))
}

/// Seconds per guided step, which is a batch of two, for each side of latents and each precision.
fn unet(folder: &Path, sides: &[usize]) -> anyhow::Result<Value> {
    let mut found = Map::new();
    for precision in [Precision::F32, Precision::Bf16] {
        eprintln!("models: {} in {precision}", folder.display());
        let model = StableDiffusion::load_in(folder, precision)?;
        for &side in sides {
            let initial = Tensor::randn(0f32, 1f32, (1, 4, side, side), &Device::Cpu)?;
            let run = |steps| {
                let params = GenerationParams { steps, ..GenerationParams::default() };
                best(|| model.denoise(&initial, &[PROMPT], &params, &[]).map(drop))
            };
            // The difference removes encoding the prompt, which happens once for any number of
            // steps.
            let seconds = run(2)? - run(1)?;
            found.insert(format!("{precision} {side}"), json!(seconds));
        }
    }
    Ok(Value::Object(found))
}

/// Seconds per picture, for each side and batch size; the result of `initial`; and the device.
fn draw(folder: &Path, drawings: &Drawings) -> anyhow::Result<Value> {
    let precision: Precision = drawings.precision.parse()?;
    eprintln!("models: pictures of {} in {precision}", folder.display());
    let model = StableDiffusion::load_in(folder, precision)?;
    let mut seconds = Map::new();
    for &side in &drawings.sides {
        let params = params(side, drawings.steps);
        for &batch in &drawings.batches {
            let request = |seed| GenerationRequest { prompt: PROMPT.to_owned(), seed };
            let requests: Vec<_> = (0..batch as u64).map(request).collect();
            let taken = best(|| -> anyhow::Result<()> {
                let pictures = model.generate(&requests, &params)?;
                Ok(pictures.into_iter().try_for_each(|picture| picture.map(drop))?)
            })?;
            seconds.insert(format!("{side} {batch}"), json!(taken / batch as f64));
        }
    }
    Ok(json!({"seconds": seconds, "denoised": denoised(&model, drawings)?, "device": model.device()}))
}

fn params(side: usize, steps: usize) -> GenerationParams {
    GenerationParams { steps, height: Some(side), width: Some(side), ..GenerationParams::default() }
}

fn denoised(model: &StableDiffusion, drawings: &Drawings) -> anyhow::Result<Vec<f32>> {
    let side = drawings.sides.first().context("no side of pictures is given")? / 8;
    let initial = Tensor::from_vec(drawings.initial.clone(), (1, 4, side, side), &Device::Cpu)?;
    let latents = model.denoise(&initial, &[PROMPT], &params(8 * side, drawings.steps), &[])?;
    Ok(latents.flatten_all()?.to_vec1()?)
}
