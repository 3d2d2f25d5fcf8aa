//! unet/config.json and vae/config.json of a diffusers folder. A setting that our network does not
//! implement is never ignored: it is refused with an error that names it.

use std::path::Path;

use serde::Deserialize;

use crate::{ModelError, files};

/// A number for all blocks, or one number per block.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum PerBlock {
    All(usize),
    Each(Vec<usize>),
}

impl PerBlock {
    pub(super) fn of(&self, block: usize) -> usize {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values.get(block).copied().unwrap_or(0),
        }
    }
}

fn one() -> PerBlock {
    PerBlock::All(1)
}

fn two() -> PerBlock {
    PerBlock::All(2)
}

fn eight() -> PerBlock {
    PerBlock::All(8)
}

fn epsilon() -> f64 {
    1e-5
}

fn groups() -> usize {
    32
}

fn yes() -> bool {
    true
}

/// diffusers' UNet2DConditionModel.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct UnetConfig {
    pub sample_size: Option<usize>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    #[serde(default = "two")]
    pub(super) layers_per_block: PerBlock,
    #[serde(default = "one")]
    pub(super) transformer_layers_per_block: PerBlock,
    /// The number of heads, despite its name (diffusers keeps this mistake).
    #[serde(default = "eight")]
    attention_head_dim: PerBlock,
    num_attention_heads: Option<PerBlock>,
    pub cross_attention_dim: usize,
    #[serde(default = "groups")]
    pub norm_num_groups: usize,
    #[serde(default = "epsilon")]
    pub norm_eps: f64,
    #[serde(default = "yes")]
    pub flip_sin_to_cos: bool,
    #[serde(default)]
    pub freq_shift: f64,
}

/// Settings whose other values would mean another network: the names and the allowed values.
const UNET_FIXED: [(&str, &[&str]); 20] = [
    ("act_fn", &["silu", "swish"]),
    ("addition_embed_type", &[]),
    ("center_input_sample", &["false"]),
    ("class_embed_type", &[]),
    ("class_embeddings_concat", &["false"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("cross_attention_norm", &[]),
    ("downsample_padding", &["1"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &[]),
    ("mid_block_only_cross_attention", &["false"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("mid_block_type", &["UNetMidBlock2DCrossAttn"]),
    ("num_class_embeds", &[]),
    ("only_cross_attention", &["false"]),
    ("resnet_skip_time_act", &["false"]),
    ("resnet_time_scale_shift", &["default"]),
    ("time_embedding_type", &["positional"]),
    ("timestep_post_act", &[]),
];

const VAE_FIXED: [(&str, &[&str]); 6] = [
    ("act_fn", &["silu", "swish"]),
    ("latents_mean", &[]),
    ("latents_std", &[]),
    ("mid_block_add_attention", &["true"]),
    ("use_post_quant_conv", &["true", "false"]),
    ("shift_factor", &["0", "0.0"]),
];

/// The largest side of latents that a folder may ask for: pictures of 8192 pixels.
const LARGEST_SAMPLE: usize = 1024;

/// The most blocks of a decoder. Each doubles the picture's sides; published decoders have 4.
const MOST_BLOCKS: usize = 8;

impl UnetConfig {
    pub(crate) fn load(path: &Path) -> Result<Self, ModelError> {
        files::check_settings(path, &files::read_settings(path)?, &UNET_FIXED)?;
        let config: Self = files::read_settings(path)?;
        if config.sample_size.is_some_and(|size| size == 0 || size > LARGEST_SAMPLE) {
            return Err(ModelError::broken(path, format!("its sample_size is not 1 to {LARGEST_SAMPLE}")));
        }
        let blocks = config.block_out_channels.len();
        if blocks == 0 || config.down_block_types.len() != blocks || config.up_block_types.len() != blocks {
            return Err(ModelError::broken(path, "its lists of blocks differ in length"));
        }
        for (types, attending, plain) in [
            (&config.down_block_types, "CrossAttnDownBlock2D", "DownBlock2D"),
            (&config.up_block_types, "CrossAttnUpBlock2D", "UpBlock2D"),
        ] {
            if let Some(other) = types.iter().find(|name| *name != attending && *name != plain) {
                return Err(ModelError::unsupported(path, format!("the block type {other}")));
            }
        }
        for block in 0..blocks {
            let (channels, heads) = (config.block_out_channels[block], config.heads(block));
            if heads == 0 || !channels.is_multiple_of(heads) {
                return Err(ModelError::broken(
                    path,
                    format!("{channels} channels cannot be divided into {heads} heads"),
                ));
            }
        }
        Ok(config)
    }

    /// The number of attention heads of a down block.
    pub(super) fn heads(&self, block: usize) -> usize {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).of(block)
    }
}

/// The decoder's part of diffusers' AutoencoderKL.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct VaeConfig {
    pub out_channels: usize,
    pub latent_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    #[serde(default = "groups")]
    pub norm_num_groups: usize,
    #[serde(default = "scaling")]
    pub scaling_factor: f64,
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    #[serde(default)]
    sample_size: SampleSize,
    #[serde(default)]
    up_block_types: Vec<String>,
}

/// The trained size of an autoencoder in pixels: one number for both sides, or height and width.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum SampleSize {
    Square(usize),
    Sides([usize; 2]),
}

impl Default for SampleSize {
    fn default() -> Self {
        Self::Square(32)
    }
}

fn scaling() -> f64 {
    0.18215
}

impl VaeConfig {
    pub(crate) fn load(path: &Path) -> Result<Self, ModelError> {
        files::check_settings(path, &files::read_settings(path)?, &VAE_FIXED)?;
        let config: Self = files::read_settings(path)?;
        if let Some(other) = config.up_block_types.iter().find(|name| *name != "UpDecoderBlock2D") {
            return Err(ModelError::unsupported(path, format!("the block type {other}")));
        }
        if config.block_out_channels.is_empty() || config.out_channels != 3 {
            return Err(ModelError::broken(path, "it does not decode to three channels"));
        }
        if config.block_out_channels.len() > MOST_BLOCKS {
            return Err(ModelError::broken(path, format!("it has more than {MOST_BLOCKS} blocks")));
        }
        Ok(config)
    }

    /// The trained side in pixels; the height if the size is not square.
    pub(super) fn sample_size(&self) -> usize {
        match self.sample_size {
            SampleSize::Square(side) | SampleSize::Sides([side, _]) => side,
        }
    }

    /// The side of a latent in pixels.
    pub(crate) fn scale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_with_no_blocks_or_too_many_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let of_blocks = |blocks: usize| {
            let config = serde_json::json!({
                "out_channels": 3, "latent_channels": 4, "layers_per_block": 1, "block_out_channels": vec![8; blocks],
            });
            std::fs::write(&path, config.to_string()).unwrap();
            VaeConfig::load(&path)
        };
        assert_eq!(of_blocks(4).unwrap().scale(), 8);
        // 2^64 pixels for a latent.
        for blocks in [0, 9, 65] {
            assert!(of_blocks(blocks).is_err(), "{blocks}");
        }
    }
}
