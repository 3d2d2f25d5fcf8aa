//! CLIP's config.json. Missing settings have the defaults of transformers' CLIPTextConfig and
//! CLIPVisionConfig.

use std::path::Path;

use serde::Deserialize;

use crate::ops::Activation;
use crate::{ModelError, files};

/// The configuration of a CLIP folder.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ClipConfig {
    #[serde(default)]
    pub text_config: TextConfig,
    #[serde(default)]
    pub vision_config: VisionConfig,
    #[serde(default = "projection_dim")]
    pub projection_dim: usize,
}

impl ClipConfig {
    /// Reads config.json and refuses sizes that no tower can have.
    pub(crate) fn load(path: &Path) -> Result<Self, ModelError> {
        let config: Self = files::read_settings(path)?;
        let (text, vision) = (&config.text_config, &config.vision_config);
        check_heads(path, "text", text.hidden_size, text.num_attention_heads)?;
        check_heads(path, "vision", vision.hidden_size, vision.num_attention_heads)?;
        if vision.patch_size == 0 || vision.image_size < vision.patch_size {
            return Err(ModelError::broken(path, "its pictures are smaller than a patch"));
        }
        Ok(config)
    }
}

/// Refuses a width that is not a multiple of the number of attention heads.
pub(crate) fn check_heads(path: &Path, tower: &str, width: usize, heads: usize) -> Result<(), ModelError> {
    if heads == 0 || !width.is_multiple_of(heads) {
        let reason = format!("the {tower} tower's width {width} is not a multiple of its {heads} heads");
        return Err(ModelError::broken(path, reason));
    }
    Ok(())
}

fn projection_dim() -> usize {
    512
}

/// The text transformer. A Stable Diffusion text_encoder/config.json has this form.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
    pub eos_token_id: u32,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
        }
    }
}

/// The vision transformer.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct VisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    pub image_size: usize,
    pub patch_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}
