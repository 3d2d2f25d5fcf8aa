//! The pipeline: prompts to hidden states, noise to latents, latents to pictures.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::config::{UnetConfig, VaeConfig};
use super::noise::Noise;
use super::scheduler::Schedule;
use super::unet::{Context, Unet};
use super::vae::VaeDecoder;
use super::{GenerationError, GenerationParams, GenerationRequest, VaeTiles};
use crate::clip::{TextConfig, TextTransformer, check_heads};
use crate::device::Precision;
use crate::picture::resize_to;
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, device, files, weights};

/// A loaded diffusers folder.
#[derive(Debug)]
pub struct StableDiffusion {
    tokenizer: TextTokenizer,
    text: TextTransformer,
    unet: Unet,
    vae: VaeDecoder,
    schedule: Schedule,
    channels: usize,
    /// The side in latents if no size is requested.
    sample_size: usize,
    /// The side of a latent in pixels.
    scale: usize,
    device: Device,
    /// The type of the values between the layers.
    dtype: DType,
    precision: Precision,
    revision: Revision,
}

/// Latent positions (height times width, over all pictures) that are denoised together on a CPU:
/// one picture of SD2 keeps its cores busy.
const POSITIONS: usize = 512;
/// Latent positions that are denoised together on a GPU: eight pictures of 768 x 768.
const POSITIONS_ON_GPU: usize = 8 * 96 * 96;
/// Maximum number of pixels that are decoded together.
const PIXELS: usize = 16 * 1024;

/// The side of the latents if unet/config.json lacks it (diffusers' default).
const SAMPLE_SIZE: usize = 64;

impl StableDiffusion {
    /// Loads the tokenizer, text encoder, UNet, decoder and schedule of a diffusers folder, in f32.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        Self::load_in(folder, Precision::F32)
    }

    /// Loads a diffusers folder with its matrices in the given precision.
    pub fn load_in(folder: &Path, precision: Precision) -> Result<Self, ModelError> {
        let device = device::preferred();
        let part = |name: &str| folder.join(name);
        let unet_config = UnetConfig::load(&part("unet").join("config.json"))?;
        let vae_config = VaeConfig::load(&part("vae").join("config.json"))?;
        let text_path = part("text_encoder").join("config.json");
        let text_config: TextConfig = files::read_settings(&text_path)?;
        check_heads(&text_path, "text", text_config.hidden_size, text_config.num_attention_heads)?;
        let weights =
            |name: &str| weights::load_named(&part(name), &weights::NAMES, precision.dtype(), &device);
        let broken = |name: &'static str| move |error| ModelError::broken(folder.join(name), error);
        let network = Self {
            tokenizer: TextTokenizer::load(&part("tokenizer"), text_config.max_position_embeddings)?,
            text: TextTransformer::load(weights("text_encoder")?, &text_config)
                .map_err(broken("text_encoder"))?,
            unet: Unet::load(weights("unet")?, &unet_config).map_err(broken("unet"))?,
            vae: VaeDecoder::load(weights("vae")?, &vae_config).map_err(broken("vae"))?,
            schedule: Schedule::load(&part("scheduler").join("scheduler_config.json"))?,
            channels: unet_config.in_channels,
            sample_size: unet_config.sample_size.unwrap_or(SAMPLE_SIZE),
            scale: vae_config.scale(),
            dtype: if device.is_cpu() { DType::F32 } else { precision.dtype() },
            device: device.clone(),
            precision,
            revision: Revision::of_folder(folder)?,
        };
        Ok(device::loaded(network, &device)?)
    }

    /// Returns the settings that change this model's pictures: the parameters, the precision if it
    /// is not f32, and tiles if pictures of this size are decoded in tiles.
    pub fn identity(&self, params: &GenerationParams) -> String {
        let size = self.latent_size(params);
        let tiled = size.is_ok_and(|size| self.vae.takes_tiles(params.vae_tiles, size));
        let tiled = if tiled { "tiled " } else { "" };
        match self.precision {
            Precision::F32 => format!("{tiled}{params}"),
            precision => format!("{precision} {tiled}{params}"),
        }
    }

    /// The device of the networks: `processor` or `GPU`.
    pub fn device(&self) -> &'static str {
        if self.device.is_cpu() { "processor" } else { "GPU" }
    }

    /// The folder's name and revision.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Generates the pictures, in order. A failed picture does not affect the others. An error of
    /// the whole call means that this model cannot generate pictures with these parameters.
    pub fn generate(
        &self,
        requests: &[GenerationRequest],
        params: &GenerationParams,
    ) -> Result<Vec<Result<RgbImage, GenerationError>>, ModelError> {
        let (height, width) = self.latent_size(params)?;
        let positions = if self.device.is_cpu() { POSITIONS } else { POSITIONS_ON_GPU };
        let together = (positions / (height * width)).max(1);
        let mut pictures = Vec::with_capacity(requests.len());
        for batch in requests.chunks(together) {
            let prompts: Vec<&str> = batch.iter().map(|request| request.prompt.as_str()).collect();
            let mut noises: Vec<Noise> = batch.iter().map(|request| Noise::new(request.seed)).collect();
            let shape = (batch.len(), self.channels, height, width);
            let initial = noise_of(&mut noises, shape)?;
            let latents = self.run(&initial, &prompts, params, &mut |_| Ok(noise_of(&mut noises, shape)?))?;
            let decoded = self.decode(&latents, params.vae_tiles)?;
            pictures.extend(decoded.into_iter().zip(batch).map(|(picture, request)| {
                let picture = picture.ok_or(GenerationError::NonFinite { seed: request.seed })?;
                Ok(params.output.map_or(picture.clone(), |size| resize_to(&picture, size)))
            }));
        }
        Ok(pictures)
    }

    /// Denoises initial latents [n, channels, h, w], with one prompt each, to final latents of the
    /// same shape. A scheduler that adds noise takes the noise of step k from `noises[k]`, of the
    /// same shape; other schedulers ignore it.
    pub fn denoise(
        &self,
        initial: &Tensor,
        prompts: &[&str],
        params: &GenerationParams,
        noises: &[Tensor],
    ) -> Result<Tensor, ModelError> {
        self.run(initial, prompts, params, &mut |step| {
            let missing = || ModelError::Parameters(format!("there is no noise for step {step}"));
            noises.get(step).cloned().ok_or_else(missing)
        })
    }

    fn run(
        &self,
        initial: &Tensor,
        prompts: &[&str],
        params: &GenerationParams,
        noise: &mut dyn FnMut(usize) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let mut sampler = self.schedule.sampler(params.scheduler, params.steps)?;
        let guidance = (params.guidance_scale > 1.0).then_some(params.guidance_scale);
        let negative = guidance.map(|_| params.negative_prompt.as_str());
        let context = self.unet.context(&self.hidden_states(prompts, negative)?)?;
        let (shape, values) = channels_last(initial)?;
        let mut values: Vec<f32> = values.iter().map(|value| value * sampler.initial_scale()).collect();
        for step in 0..params.steps {
            let timestep = sampler.timesteps()[step];
            let scale = sampler.input_scale(step);
            let input: Vec<f32> = values.iter().map(|value| value * scale).collect();
            let latents = Tensor::from_vec(input, shape, &self.device)?.to_dtype(self.dtype)?;
            let prediction = self.predict(&latents, timestep, &context, guidance)?;
            let added = if sampler.adds_noise() { channels_last(&noise(step)?)?.1 } else { Vec::new() };
            sampler.step(step, &prediction, &mut values, &added);
        }
        Ok(Tensor::from_vec(values, shape, &self.device)?.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// Returns the UNet's prediction. With guidance, the passes without and with the prompt are one
    /// batch.
    fn predict(
        &self,
        latents: &Tensor,
        timestep: f32,
        context: &Context,
        guidance: Option<f64>,
    ) -> Result<Vec<f32>, ModelError> {
        let ask = |latents: &Tensor| -> Result<Vec<f32>, ModelError> {
            let prediction = self.unet.forward(latents, timestep, context)?;
            Ok(prediction.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
        };
        let Some(guidance) = guidance else { return ask(latents) };
        let values = ask(&Tensor::cat(&[latents, latents], 0)?)?;
        let (without, with) = values.split_at(values.len() / 2);
        Ok(without.iter().zip(with).map(|(u, c)| u + guidance as f32 * (c - u)).collect())
    }

    /// Returns the prompts' hidden states [n, tokens, width], preceded by those of the negative
    /// prompt if there is one.
    fn hidden_states(&self, prompts: &[&str], negative: Option<&str>) -> Result<Tensor, ModelError> {
        let hidden = self.text.hidden(&self.tokenizer.encode_padded(prompts)?)?;
        let Some(negative) = negative else { return Ok(hidden) };
        let negative = self.text.hidden(&self.tokenizer.encode_padded(&[negative])?)?;
        Ok(Tensor::cat(&[&negative.broadcast_as(hidden.shape())?.contiguous()?, &hidden], 0)?)
    }

    /// Decodes final latents [n, channels, h, w] to pictures. Returns None for a picture with
    /// values that are not finite.
    pub fn decode(&self, latents: &Tensor, tiles: VaeTiles) -> Result<Vec<Option<RgbImage>>, ModelError> {
        let (count, _, height, width) = latents.dims4()?;
        let size = (height * self.scale, width * self.scale);
        let together = (PIXELS / (size.0 * size.1)).max(1);
        let mut pictures = Vec::with_capacity(count);
        for begin in (0..count).step_by(together) {
            let part = latents.narrow(0, begin, together.min(count - begin))?;
            let values = self.decode_values(&part, tiles)?.flatten_all()?.to_vec1::<f32>()?;
            pictures.extend(values.chunks_exact(size.0 * size.1 * 3).map(|values| to_picture(values, size)));
        }
        Ok(pictures)
    }

    /// Returns the decoder's output [n, h * scale, w * scale, 3], around -1 to 1, for latents [n,
    /// channels, h, w].
    pub fn decode_values(&self, latents: &Tensor, tiles: VaeTiles) -> Result<Tensor, ModelError> {
        let latents = latents.permute((0, 2, 3, 1))?.contiguous()?;
        let latents = latents.to_device(&self.device)?.to_dtype(self.dtype)?;
        Ok(self.vae.decode(&latents, tiles)?.to_dtype(DType::F32)?)
    }

    fn latent_size(&self, params: &GenerationParams) -> Result<(usize, usize), ModelError> {
        if params.output.is_some_and(|(height, width)| height == 0 || width == 0) {
            return Err(ModelError::Parameters("the size of the output must not be 0".to_owned()));
        }
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

type Shape = (usize, usize, usize, usize);

/// Returns the next noise of each picture, [n, channels, h, w].
fn noise_of(noises: &mut [Noise], shape: Shape) -> candle_core::Result<Tensor> {
    let (_, channels, height, width) = shape;
    let values: Vec<_> = noises.iter_mut().map(|noise| noise.normal(channels * height * width)).collect();
    Tensor::from_vec(values.concat(), shape, &Device::Cpu)
}

/// Converts [n, channels, h, w] to the shape and the values of [n, h, w, channels].
fn channels_last(latents: &Tensor) -> candle_core::Result<(Shape, Vec<f32>)> {
    let latents = latents.permute((0, 2, 3, 1))?.contiguous()?;
    Ok((latents.dims4()?, latents.flatten_all()?.to_vec1()?))
}

fn to_picture(values: &[f32], (height, width): (usize, usize)) -> Option<RgbImage> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let level = |value: &f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    RgbImage::from_raw(width as u32, height as u32, values.iter().map(level).collect())
}
