//! `[generator]`: how pictures are drawn.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unprompt_models::stable_diffusion::{GenerationParams, Precision, Scheduler, VaeTiles};
use unprompt_stream::config::Invalid;

/// The generator's model folder and its section.
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
    /// In pixels; `None` is the model's native size.
    #[serde(default)]
    pub height: Option<usize>,
    #[serde(default)]
    pub width: Option<usize>,
    /// Height and width to resize finished pictures to.
    #[serde(default)]
    pub output: Option<(usize, usize)>,
    /// The precision of the matrices.
    pub precision: Precision,
    /// The decoding in tiles: always, never, or if pictures are large.
    pub vae_tiles: VaeTiles,
    /// Pictures per pass of the network.
    pub batch: usize,
    /// Pictures of one record, at most.
    pub max_seeds: usize,
}

/// Pixels along the side of a latent; heights and widths are multiples of it.
const LATENT_PIXELS: usize = 8;
/// The maximum height and width of a picture in pixels.
const MAX_SIDE: usize = 8192;
/// The maximum number of denoising steps: as many as the noise schedule was trained with.
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

    /// Refuses a value that cannot be used.
    ///
    /// # Errors
    /// The key, and the values it allows.
    pub fn check(&self) -> Result<(), Invalid> {
        Invalid::unless_in("generator.steps", self.steps, 1..=MAX_STEPS, "1 to 1000")?;
        Invalid::unless_in("generator.guidance_scale", self.guidance_scale, 0.0..=1000.0, "0 to 1000")?;
        Invalid::unless_in("generator.batch", self.batch, 1.., "1 or more")?;
        Invalid::unless_in("generator.max_seeds", self.max_seeds, 1.., "1 or more")?;
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
            format!("{pixels} is not a picture size; give a multiple of {LATENT_PIXELS} up to {MAX_SIDE},"),
        )),
        _ => Ok(()),
    }
}
