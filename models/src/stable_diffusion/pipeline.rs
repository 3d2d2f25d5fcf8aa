//! The pipeline: prompts to hidden states, noise to latents, latents to pictures.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::config::{UnetConfig, VaeConfig};
use super::scheduler::{Ddim, Step};
use super::unet::{Context, Unet};
use super::vae::VaeDecoder;
use super::{GenerationError, GenerationParams, GenerationRequest, noise};
use crate::clip::{TextConfig, TextTransformer};
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, device, files};

/// A loaded diffusers folder.
#[derive(Debug)]
pub struct StableDiffusion {
    tokenizer: TextTokenizer,
    text: TextTransformer,
    unet: Unet,
    vae: VaeDecoder,
    scheduler: Ddim,
    channels: usize,
    /// Latents a side where no size is asked for.
    sample_size: usize,
    /// Pixels along the side of a latent.
    scale: usize,
    device: Device,
    revision: Revision,
}

/// Latent positions (height times width, over all pictures) that are denoised together.
const POSITIONS: usize = 512;
/// Pixels that are decoded together.
const PIXELS: usize = 16 * 1024;

/// The side of the latents where unet/config.json does not say (diffusers' default).
const SAMPLE_SIZE: usize = 64;

impl StableDiffusion {
    /// Loads the tokenizer, text encoder, UNet, decoder and schedule of a diffusers folder.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let device = device::preferred()?;
        let part = |name: &str| folder.join(name);
        let unet_config = UnetConfig::load(&part("unet").join("config.json"))?;
        let vae_config = VaeConfig::load(&part("vae").join("config.json"))?;
        let text_config: TextConfig = files::read_json(&part("text_encoder").join("config.json"))?;
        let weights = |name: &str| files::load_weights(&part(name), &device);
        let broken = |name: &'static str| move |error| ModelError::broken(folder.join(name), error);
        Ok(Self {
            tokenizer: TextTokenizer::load(&part("tokenizer"), text_config.max_position_embeddings)?,
            text: TextTransformer::load(weights("text_encoder")?, &text_config)
                .map_err(broken("text_encoder"))?,
            unet: Unet::load(weights("unet")?, &unet_config).map_err(broken("unet"))?,
            vae: VaeDecoder::load(weights("vae")?, &vae_config).map_err(broken("vae"))?,
            scheduler: Ddim::load(&part("scheduler").join("scheduler_config.json"))?,
            channels: unet_config.in_channels,
            sample_size: unet_config.sample_size.unwrap_or(SAMPLE_SIZE),
            scale: vae_config.scale(),
            device,
            revision: Revision::of_folder(folder)?,
        })
    }

    /// The folder's name and revision.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Makes the pictures, in order. A picture that fails does so alone; an error of the whole call means that no
    /// picture can be made with this model and these parameters.
    pub fn generate(
        &self,
        requests: &[GenerationRequest],
        params: &GenerationParams,
    ) -> Result<Vec<Result<RgbImage, GenerationError>>, ModelError> {
        let (height, width) = self.latent_size(params)?;
        let together = (POSITIONS / (height * width)).max(1);
        let mut pictures = Vec::with_capacity(requests.len());
        for batch in requests.chunks(together) {
            let prompts: Vec<&str> = batch.iter().map(|request| request.prompt.as_str()).collect();
            let noise =
                batch.iter().map(|request| noise::normal(request.seed, self.channels * height * width));
            let initial = Tensor::from_vec(
                noise.collect::<Vec<_>>().concat(),
                (batch.len(), self.channels, height, width),
                &self.device,
            )?;
            let latents = self.denoise(&initial, &prompts, params)?;
            let decoded = self.decode(&latents)?;
            pictures.extend(
                decoded.into_iter().zip(batch).map(|(picture, request)| {
                    picture.ok_or(GenerationError::NonFinite { seed: request.seed })
                }),
            );
        }
        Ok(pictures)
    }

    /// Denoises initial latents [n, channels, h, w], one prompt each, to final latents of the same shape.
    pub fn denoise(
        &self,
        initial: &Tensor,
        prompts: &[&str],
        params: &GenerationParams,
    ) -> Result<Tensor, ModelError> {
        let steps = self.scheduler.steps(params.steps)?;
        let guided = params.guidance_scale > 1.0;
        let context = self.unet.context(&self.hidden_states(prompts, guided)?)?;
        let latents = initial.permute((0, 2, 3, 1))?.contiguous()?;
        let shape = latents.dims4()?;
        let mut values = latents.flatten_all()?.to_vec1::<f32>()?;
        for step in steps {
            let latents = Tensor::from_slice(&values, shape, &self.device)?;
            let prediction =
                self.predict(&latents, step, &context, guided.then_some(params.guidance_scale))?;
            self.scheduler.advance(step, &prediction, &mut values);
        }
        Ok(Tensor::from_vec(values, shape, &self.device)?.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// The UNet's prediction, with guidance where it is given: without and with the prompt in one batch.
    fn predict(
        &self,
        latents: &Tensor,
        step: Step,
        context: &Context,
        guidance: Option<f64>,
    ) -> Result<Vec<f32>, ModelError> {
        let Some(guidance) = guidance else {
            return Ok(self.unet.forward(latents, step.timestep, context)?.flatten_all()?.to_vec1()?);
        };
        let both = Tensor::cat(&[latents, latents], 0)?;
        let values = self.unet.forward(&both, step.timestep, context)?.flatten_all()?.to_vec1::<f32>()?;
        let (without, with) = values.split_at(values.len() / 2);
        Ok(without.iter().zip(with).map(|(u, c)| u + guidance as f32 * (c - u)).collect())
    }

    /// The prompts' hidden states [n, tokens, width], those of the empty prompt before them where guided.
    fn hidden_states(&self, prompts: &[&str], guided: bool) -> Result<Tensor, ModelError> {
        let hidden = self.text.hidden(&self.tokenizer.encode_padded(prompts)?)?;
        if !guided {
            return Ok(hidden);
        }
        let empty = self.text.hidden(&self.tokenizer.encode_padded(&[""])?)?;
        Ok(Tensor::cat(&[&empty.broadcast_as(hidden.shape())?.contiguous()?, &hidden], 0)?)
    }

    /// The pictures of final latents [n, channels, h, w]; none where a picture has values that are not finite.
    pub fn decode(&self, latents: &Tensor) -> Result<Vec<Option<RgbImage>>, ModelError> {
        let (count, _, height, width) = latents.dims4()?;
        let size = (height * self.scale, width * self.scale);
        let together = (PIXELS / (size.0 * size.1)).max(1);
        let mut pictures = Vec::with_capacity(count);
        for begin in (0..count).step_by(together) {
            let part = latents.narrow(0, begin, together.min(count - begin))?;
            let values = self.decode_values(&part)?.flatten_all()?.to_vec1::<f32>()?;
            pictures.extend(values.chunks_exact(size.0 * size.1 * 3).map(|values| to_picture(values, size)));
        }
        Ok(pictures)
    }

    /// The decoder's output [n, h * scale, w * scale, 3], around -1 to 1, for latents [n, channels, h, w].
    pub fn decode_values(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.vae.decode(&latents.permute((0, 2, 3, 1))?.contiguous()?)?)
    }

    fn latent_size(&self, params: &GenerationParams) -> Result<(usize, usize), ModelError> {
        let side = |name: &str, pixels: Option<usize>| match pixels {
            None => Ok(self.sample_size),
            Some(pixels) if pixels > 0 && pixels % self.scale == 0 => Ok(pixels / self.scale),
            Some(pixels) => Err(ModelError::Parameters(format!(
                "{name} must be a multiple of {}, not {pixels}",
                self.scale
            ))),
        };
        Ok((side("height", params.height)?, side("width", params.width)?))
    }
}

fn to_picture(values: &[f32], (height, width): (usize, usize)) -> Option<RgbImage> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let level = |value: &f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    RgbImage::from_raw(width as u32, height as u32, values.iter().map(level).collect())
}
