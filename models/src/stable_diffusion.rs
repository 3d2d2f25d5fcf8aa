//! Stable Diffusion 2 (and 1) from a diffusers folder: prompts and seeds in, pictures out.
//!
//! Equal to diffusers' StableDiffusionPipeline with DDIMScheduler from the same initial latents. The initial latents
//! are ours: a seed gives the same picture whatever else is in its batch.

mod blocks;
mod config;
mod noise;
mod pipeline;
mod scheduler;
mod unet;
mod vae;

use std::fmt;

pub use image::RgbImage;
pub use pipeline::StableDiffusion;

/// One picture to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRequest {
    pub prompt: String,
    pub seed: u64,
}

/// How pictures are made. Its text is stable: it is part of the identity of the pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationParams {
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance (Ho and Salimans, 2022); 1 or less means none.
    pub guidance_scale: f64,
    /// In pixels; what the model was made for where absent.
    pub height: Option<usize>,
    /// In pixels; what the model was made for where absent.
    pub width: Option<usize>,
}

impl Default for GenerationParams {
    fn default() -> Self {
        Self { steps: 20, guidance_scale: 7.5, height: None, width: None }
    }
}

impl fmt::Display for GenerationParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ddim steps={} guidance_scale={}", self.steps, self.guidance_scale)?;
        for (name, side) in [("height", self.height), ("width", self.width)] {
            match side {
                Some(pixels) => write!(f, " {name}={pixels}")?,
                None => write!(f, " {name}=default")?,
            }
        }
        Ok(())
    }
}

/// Why one picture of a batch was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    #[error(
        "the picture of seed {seed} has values that are not finite: use another seed, fewer steps or less guidance"
    )]
    NonFinite { seed: u64 },
}

impl GenerationError {
    /// A stable code for dead letters and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NonFinite { .. } => "non-finite-picture",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_text_is_golden() {
        assert_eq!(
            GenerationParams::default().to_string(),
            "ddim steps=20 guidance_scale=7.5 height=default width=default"
        );
        let small = GenerationParams { steps: 12, guidance_scale: 3.0, height: Some(64), width: Some(96) };
        assert_eq!(small.to_string(), "ddim steps=12 guidance_scale=3 height=64 width=96");
    }
}
