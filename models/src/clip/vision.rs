//! CLIP's vision transformer: patches and a class token, pooled to one vector per picture at the
//! class token.

use candle_core::{D, Result, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder};

use super::config::VisionConfig;
use super::encoder::{Encoder, Shape};
use crate::ops::{Conv2d, layer_norm, parameter};
use crate::positions::{self, Resampling};

#[derive(Debug)]
pub(crate) struct VisionTransformer {
    patches: Conv2d,
    class: Tensor,
    positions: Tensor,
    norm_before: Option<LayerNorm>,
    encoder: Encoder,
    norm_after: LayerNorm,
}

impl VisionTransformer {
    /// Loads the tensors under `vision_model`, for pictures of `side` pixels.
    pub(crate) fn load(
        vb: VarBuilder,
        config: &VisionConfig,
        side: usize,
        resampling: Resampling,
    ) -> Result<Self> {
        let (vb, width, patch) = (vb.pp("vision_model"), config.hidden_size, config.patch_size);
        let embeddings = vb.pp("embeddings");
        let grid = config.image_size / patch;
        let positions = parameter(&embeddings, (grid * grid + 1, width), "position_embedding.weight")?;
        let norm = |name: &str| layer_norm(vb.pp(name), width, config.layer_norm_eps);
        Ok(Self {
            patches: Conv2d::load(
                embeddings.pp("patch_embedding"),
                config.num_channels,
                width,
                (patch, patch, 0),
            )?,
            class: parameter(&embeddings, width, "class_embedding")?,
            positions: positions::resized(&positions, 1, grid, side / patch, resampling)?,
            // transformers' spelling; BLIP-2 has no such norm.
            norm_before: match vb.contains_tensor("pre_layrnorm.weight") {
                true => Some(norm("pre_layrnorm")?),
                false => None,
            },
            encoder: Encoder::load(vb.pp("encoder"), shape(config))?,
            norm_after: norm("post_layernorm")?,
        })
    }

    /// Maps pixels [batch, height, width, 3] to the class token's state [batch, width].
    pub(crate) fn pooled(&self, pixels: &Tensor) -> Result<Tensor> {
        let first = self.states(pixels)?.narrow(1, 0, 1)?.flatten(1, D::Minus1)?;
        self.norm_after.forward(&first.contiguous()?)
    }

    /// Maps pixels [batch, height, width, 3] to all tokens' states [batch, 1 + patches, width].
    pub(crate) fn tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        self.norm_after.forward(&self.states(pixels)?)
    }

    fn states(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.patches.forward(pixels)?.flatten(1, 2)?;
        let (batch, _, width) = patches.dims3()?;
        let class = self.class.broadcast_as((batch, 1, width))?;
        let x = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        let x = self.norm_before.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
        self.encoder.forward(x)
    }
}

fn shape(config: &VisionConfig) -> Shape {
    Shape {
        width: config.hidden_size,
        inner: config.intermediate_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
        eps: config.layer_norm_eps,
        causal: false,
    }
}
