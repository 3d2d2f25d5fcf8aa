//! Stable Diffusion 2 (and 1) from a diffusers folder: maps prompts and seeds to pictures.
//!
//! The output equals that of diffusers' StableDiffusionPipeline with the same scheduler and the
//! same initial latents. The initial latents are our own: a seed gives the same picture in any
//! batch.

mod blocks;
mod config;
mod noise;
mod pipeline;
mod scheduler;
mod tiles;
mod unet;
mod vae;

use std::fmt;

pub use crate::device::Precision;
pub use image::RgbImage;
pub use pipeline::StableDiffusion;
pub use scheduler::Scheduler;
pub use tiles::VaeTiles;

/// A picture to generate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRequest {
    pub prompt: String,
    pub seed: u64,
}

/// The parameters of generated pictures. Their text form is stable, because it is part of the
/// pictures' identity. It omits tiles; [`StableDiffusion::identity`] adds them, since they depend
/// on the model.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationParams {
    pub scheduler: Scheduler,
    /// Denoising steps.
    pub steps: usize,
    /// The scale of classifier-free guidance (Ho and Salimans, 2022); 1 or less disables it.
    pub guidance_scale: f64,
    /// The negative prompt; may be empty.
    pub negative_prompt: String,
    /// In pixels; the model's trained size if absent.
    pub height: Option<usize>,
    /// In pixels; the model's trained size if absent.
    pub width: Option<usize>,
    /// Height and width in pixels to which finished pictures are resized, if set.
    pub output: Option<(usize, usize)>,
    pub vae_tiles: VaeTiles,
}

impl Default for GenerationParams {
    fn default() -> Self {
        Self {
            scheduler: Scheduler::Ddim,
            steps: 20,
            guidance_scale: 7.5,
            negative_prompt: String::new(),
            height: None,
            width: None,
            output: None,
            vae_tiles: VaeTiles::Auto,
        }
    }
}

impl fmt::Display for GenerationParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps={} guidance_scale={}", self.scheduler, self.steps, self.guidance_scale)?;
        for (name, side) in [("height", self.height), ("width", self.width)] {
            match side {
                Some(pixels) => write!(f, " {name}={pixels}")?,
                None => write!(f, " {name}=default")?,
            }
        }
        if let Some((height, width)) = self.output {
            write!(f, " output={height}x{width}")?;
        }
        // The negative prompt comes last, since it is free text.
        if !self.negative_prompt.is_empty() {
            write!(f, " negative_prompt={}", self.negative_prompt)?;
        }
        Ok(())
    }
}

/// The reason why a picture of a batch was not generated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    #[error(
        "the picture of seed {seed} has values that are not finite: use another seed, fewer steps or less guidance"
    )]
    NonFinite { seed: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_of_the_parameters_is_stable() {
        assert_eq!(
            GenerationParams::default().to_string(),
            "ddim steps=20 guidance_scale=7.5 height=default width=default"
        );
        let small = GenerationParams {
            steps: 12,
            guidance_scale: 3.0,
            height: Some(64),
            width: Some(96),
            ..GenerationParams::default()
        };
        assert_eq!(small.to_string(), "ddim steps=12 guidance_scale=3 height=64 width=96");
        let all = GenerationParams {
            scheduler: Scheduler::DpmSolver,
            negative_prompt: "blurry, text".to_owned(),
            output: Some((32, 48)),
            ..small
        };
        assert_eq!(
            all.to_string(),
            "dpm-solver++ steps=12 guidance_scale=3 height=64 width=96 output=32x48 negative_prompt=blurry, text"
        );
    }

    #[test]
    fn sd_2_1_loads_every_published_tensor_except_the_vae_encoder() {
        use crate::clip::{TextConfig, TextTransformer};
        use crate::full_size::{Published, folder};
        let config = |part: &str| folder(part).join("config.json");
        let unet = Published::read("sd21/unet");
        unet::Unet::load(unet.weights(), &config::UnetConfig::load(&config("sd21/unet")).unwrap()).unwrap();
        unet.all_asked_for_but(&[]);
        let vae = Published::read("sd21/vae");
        vae::VaeDecoder::load(vae.weights(), &config::VaeConfig::load(&config("sd21/vae")).unwrap()).unwrap();
        vae.all_asked_for_but(&["encoder.", "quant_conv."]);
        let text = Published::read("sd21/text_encoder");
        let settings: TextConfig = crate::files::read_json(&config("sd21/text_encoder")).unwrap();
        TextTransformer::load(text.weights(), &settings).unwrap();
        text.all_asked_for_but(&[]);
    }
}
