//! CLIP's vision transformer: patches, a class token, and one vector a picture taken at the class token.

use candle_core::{D, Result, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder, layer_norm};

use super::config::VisionConfig;
use super::encoder::{Encoder, Shape};
use crate::ops::Conv2d;

#[derive(Debug)]
pub(super) struct VisionTransformer {
    patches: Conv2d,
    class: Tensor,
    positions: Tensor,
    norm_before: LayerNorm,
    encoder: Encoder,
    norm_after: LayerNorm,
}

impl VisionTransformer {
    /// From the tensors under `vision_model`.
    pub(super) fn load(vb: VarBuilder, config: &VisionConfig) -> Result<Self> {
        let (vb, width, patch) = (vb.pp("vision_model"), config.hidden_size, config.patch_size);
        let shape = Shape {
            width,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
            causal: false,
        };
        let embeddings = vb.pp("embeddings");
        let positions = (config.image_size / patch).pow(2) + 1;
        Ok(Self {
            patches: Conv2d::load(
                embeddings.pp("patch_embedding"),
                config.num_channels,
                width,
                (patch, patch, 0),
            )?,
            class: embeddings.get(width, "class_embedding")?,
            positions: embeddings.get((positions, width), "position_embedding.weight")?,
            // transformers spells it so.
            norm_before: layer_norm(width, config.layer_norm_eps, vb.pp("pre_layrnorm"))?,
            encoder: Encoder::load(vb.pp("encoder"), shape)?,
            norm_after: layer_norm(width, config.layer_norm_eps, vb.pp("post_layernorm"))?,
        })
    }

    /// [batch, height, width, 3] -> the class token's state [batch, width].
    pub(super) fn pooled(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.patches.forward(pixels)?.flatten(1, 2)?;
        let (batch, _, width) = patches.dims3()?;
        let class = self.class.broadcast_as((batch, 1, width))?;
        let x = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        let x = self.encoder.forward(self.norm_before.forward(&x)?)?;
        self.norm_after.forward(&x.narrow(1, 0, 1)?.flatten(1, D::Minus1)?.contiguous()?)
    }
}
