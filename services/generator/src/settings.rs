//! `[generator]`: how pictures are drawn.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unprompt_models::stable_diffusion::{GenerationParams, Precision, Scheduler, VaeTiles};
use unprompt_stream::config::Invalid;

/// The generator's model and its section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Stable Diffusion 2's folder, in diffusers' layout.
    pub model: PathBuf,
    pub section: GeneratorSection,
}

/// `[generator]`: how pictures are drawn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorSection {
    pub scheduler: Scheduler,
    pub steps: usize,
    pub guidance_scale: f64,
    pub negative_prompt: String,
    /// In pixels; what the model was made for where absent.
    #[serde(default)]
    pub height: Option<usize>,
    #[serde(default)]
    pub width: Option<usize>,
    /// Height and width that finished pictures are brought to, where wanted.
    #[serde(default)]
    pub output: Option<(usize, usize)>,
    /// Of the matrices.
    pub precision: Precision,
    /// Decodes pictures in tiles: always, never, or where they are large.
    pub vae_tiles: VaeTiles,
    /// Pictures in one pass of the network.
    pub batch: usize,
}

/// Pixels along the side of a latent, of which sizes are multiples.
const LATENT_PIXELS: usize = 8;
/// Pixels along a side of a picture, at most.
const MAX_SIDE: usize = 8192;
/// Denoising steps, at most: as many as the noise schedule was trained with.
const MAX_STEPS: usize = 1000;

impl GeneratorSection {
    /// The parameters of one picture.
    pub fn params(&self) -> GenerationParams {
        GenerationParams {
            scheduler: self.scheduler,
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            negative_prompt: self.negative_prompt.clone(),
            height: self.height,
            width: self.width,
            output: self.output,
            vae_tiles: self.vae_tiles,
        }
    }

    /// Finds a value that cannot be used.
    ///
    /// # Errors
    /// The key, and what it may be.
    pub fn check(&self) -> Result<(), Invalid> {
        Invalid::unless_in("generator.steps", self.steps, 1..=MAX_STEPS, "1 to 1000")?;
        Invalid::unless_in("generator.guidance_scale", self.guidance_scale, 0.0..=1000.0, "0 to 1000")?;
        Invalid::unless_in("generator.batch", self.batch, 1.., "1 or more")?;
        side("generator.height", self.height)?;
        side("generator.width", self.width)?;
        let output = self.output.map_or([1, 1], |(height, width)| [height, width]);
        output.into_iter().try_for_each(|side| {
            Invalid::unless_in("generator.output", side, 1..=MAX_SIDE, "1 to 8192 for height and width")
        })
    }
}

fn side(key: &str, pixels: Option<usize>) -> Result<(), Invalid> {
    match pixels {
        Some(pixels) if pixels == 0 || pixels > MAX_SIDE || pixels % LATENT_PIXELS != 0 => Err(Invalid::new(
            key,
            format!("{pixels} is no size of a picture, give a multiple of {LATENT_PIXELS} up to {MAX_SIDE},"),
        )),
        _ => Ok(()),
    }
}
