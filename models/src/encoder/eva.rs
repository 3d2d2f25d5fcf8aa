//! timm's Eva: the vision transformers of EVA-CLIP and EVA02-CLIP (Fang et al., 2023; Sun et al.,
//! 2023). Besides learned positions EVA-02 rotates queries and keys by their positions, gates its
//! feed-forward layers (SwiGLU) and normalises within them; EVA02-E normalises after its layers.

#[cfg(feature = "onnx")]
pub(super) mod graph;

use std::path::Path;

use candle_core::{D, Result, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder};
use serde::Deserialize;

use super::timm::Features;
use crate::ModelError;
use crate::ops::{
    Activation, Conv2d, Linear, Rotary, activations, add_in_place, attention, layer_norm, parameter,
};
use crate::positions::{self, Resampling};

/// timm's arguments, with its defaults. Other arguments are refused, because they mean another
/// network.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EvaArgs {
    pub img_size: usize,
    pub patch_size: usize,
    pub embed_dim: usize,
    depth: usize,
    num_heads: usize,
    qkv_bias: bool,
    qkv_fused: bool,
    mlp_ratio: f64,
    swiglu_mlp: bool,
    scale_mlp: bool,
    scale_attn_inner: bool,
    use_abs_pos_emb: bool,
    use_rot_pos_emb: bool,
    use_post_norm: bool,
    ref_feat_shape: Option<[usize; 2]>,
    pub global_pool: String,
}

impl Default for EvaArgs {
    fn default() -> Self {
        Self {
            img_size: 224,
            patch_size: 16,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            qkv_bias: true,
            qkv_fused: true,
            mlp_ratio: 4.0,
            swiglu_mlp: false,
            scale_mlp: false,
            scale_attn_inner: false,
            use_abs_pos_emb: true,
            use_rot_pos_emb: false,
            use_post_norm: false,
            ref_feat_shape: None,
            global_pool: "avg".to_owned(),
        }
    }
}

impl EvaArgs {
    pub(super) fn check(&self, path: &Path) -> std::result::Result<(), ModelError> {
        let heads = self.num_heads;
        if heads == 0 || !self.embed_dim.is_multiple_of(heads) || self.patch_size == 0 {
            return Err(ModelError::broken(path, "its vision tower's width is not a multiple of its heads"));
        }
        if self.use_rot_pos_emb && !(self.embed_dim / heads).is_multiple_of(4) {
            return Err(ModelError::broken(path, "its heads are of no size that rotary positions can turn"));
        }
        if self.swiglu_mlp && !self.scale_mlp {
            return Err(ModelError::unsupported(path, "swiglu_mlp without scale_mlp"));
        }
        match self.global_pool.as_str() {
            "token" | "avg" => Ok(()),
            other => Err(ModelError::unsupported(path, format!("global_pool = {other}"))),
        }
    }

    fn inner(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }
}

/// The epsilon of timm's LayerNorm.
const EPS: f64 = 1e-6;

#[derive(Debug)]
pub(super) struct Eva {
    patches: Conv2d,
    class: Tensor,
    positions: Option<Tensor>,
    rotary: Option<Rotary>,
    blocks: Vec<Block>,
    /// The norm of the class token, or of the tokens' mean if that is the pooled vector.
    norm: LayerNorm,
    mean: bool,
}

impl Eva {
    /// Loads the trunk's tensors, for pictures of `side` pixels.
    pub(super) fn load(vb: VarBuilder, args: &EvaArgs, side: usize) -> Result<Self> {
        let (width, patch) = (args.embed_dim, args.patch_size);
        let (trained, grid) = (args.img_size / patch, side / patch);
        let positions = || {
            let all = parameter(&vb, (1, trained * trained + 1, width), "pos_embed")?.squeeze(0)?;
            positions::resized(&all, 1, trained, grid, Resampling::Antialias)
        };
        let mean = args.global_pool == "avg";
        Ok(Self {
            patches: Conv2d::load(vb.pp("patch_embed.proj"), 3, width, (patch, patch, 0))?,
            class: parameter(&vb, (1, 1, width), "cls_token")?,
            positions: args.use_abs_pos_emb.then(positions).transpose()?,
            rotary: args.use_rot_pos_emb.then(|| rotary(&vb, args, grid)).transpose()?,
            blocks: (0..args.depth)
                .map(|k| Block::load(vb.pp("blocks").pp(k), args))
                .collect::<Result<_>>()?,
            norm: layer_norm(vb.pp(if mean { "fc_norm" } else { "norm" }), width, EPS)?,
            mean,
        })
    }
}

fn rotary(vb: &VarBuilder, args: &EvaArgs, grid: usize) -> Result<Rotary> {
    let reference = args.ref_feat_shape.unwrap_or([grid, grid]);
    Rotary::new(grid, reference, args.embed_dim / args.num_heads, vb)
}

impl Features for Eva {
    fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.patches.forward(pixels)?.flatten(1, 2)?;
        let (batch, _, width) = patches.dims3()?;
        let mut x = Tensor::cat(&[&self.class.broadcast_as((batch, 1, width))?, &patches], 1)?;
        if let Some(positions) = &self.positions {
            x = x.broadcast_add(positions)?;
        }
        for block in &self.blocks {
            x = block.forward(x, self.rotary.as_ref())?;
        }
        let pooled = match self.mean {
            true => x.narrow(1, 1, x.dim(1)? - 1)?.mean(1)?,
            false => x.narrow(1, 0, 1)?.flatten(1, D::Minus1)?.contiguous()?,
        };
        self.norm.forward(&pooled)
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    post_norm: bool,
}

impl Block {
    fn load(vb: VarBuilder, args: &EvaArgs) -> Result<Self> {
        let norm = |name: &str| layer_norm(vb.pp(name), args.embed_dim, EPS);
        Ok(Self {
            norm1: norm("norm1")?,
            attention: Attention::load(vb.pp("attn"), args)?,
            norm2: norm("norm2")?,
            mlp: Mlp::load(vb.pp("mlp"), args)?,
            post_norm: args.use_post_norm,
        })
    }

    fn forward(&self, x: Tensor, rotary: Option<&Rotary>) -> Result<Tensor> {
        if self.post_norm {
            let x = add_in_place(self.norm1.forward(&self.attention.forward(&x, rotary)?)?, &x)?;
            return add_in_place(self.norm2.forward(&self.mlp.forward(&x)?)?, &x);
        }
        let x = add_in_place(self.attention.forward(&self.norm1.forward(&x)?, rotary)?, &x)?;
        add_in_place(self.mlp.forward(&self.norm2.forward(&x)?)?, &x)
    }
}

#[derive(Debug)]
struct Attention {
    queries: Linear,
    keys: Linear,
    values: Linear,
    norm: Option<LayerNorm>,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn load(vb: VarBuilder, args: &EvaArgs) -> Result<Self> {
        let width = args.embed_dim;
        let [queries, keys, values] = match args.qkv_fused {
            true => Self::fused(&vb, args)?,
            false => {
                let part = |name| Linear::load(vb.pp(name), width, width);
                [part("q_proj")?, part("k_proj")?, part("v_proj")?]
            }
        };
        let norm = args.scale_attn_inner.then(|| layer_norm(vb.pp("norm"), width, EPS)).transpose()?;
        let out = Linear::load(vb.pp("proj"), width, width)?;
        Ok(Self { queries, keys, values, norm, out, heads: args.num_heads })
    }

    /// Splits the fused matrix of queries, keys and values. Keys have no bias.
    fn fused(vb: &VarBuilder, args: &EvaArgs) -> Result<[Linear; 3]> {
        let width = args.embed_dim;
        let weight = vb.get((3 * width, width), "qkv.weight")?;
        let bias = |name: Option<&str>| match name {
            Some(name) => parameter(vb, width, name),
            None => Tensor::zeros(width, activations(vb), vb.device()),
        };
        let part = |third: usize, name: Option<&str>| {
            Linear::from_rows(&weight.narrow(0, third * width, width)?, bias(name.filter(|_| args.qkv_bias))?)
        };
        Ok([part(0, Some("q_bias"))?, part(1, None)?, part(2, Some("v_bias"))?])
    }

    fn forward(&self, x: &Tensor, rotary: Option<&Rotary>) -> Result<Tensor> {
        let (mut q, mut k) = (self.queries.forward(x)?, self.keys.forward(x)?);
        if let Some(rotary) = rotary {
            (q, k) = (rotary.rotate(&q)?, rotary.rotate(&k)?);
        }
        let mixed = attention(&q, &k, &self.values.forward(x)?, self.heads, false, self.out.products())?;
        let mixed = self.norm.as_ref().map_or(Ok(mixed.clone()), |norm| norm.forward(&mixed))?;
        self.out.forward(&mixed)
    }
}

#[derive(Debug)]
enum Mlp {
    Plain {
        up: Linear,
        norm: Option<LayerNorm>,
        down: Linear,
    },
    /// SwiGLU (Shazeer, 2020).
    Gated {
        gate: Linear,
        up: Linear,
        norm: LayerNorm,
        down: Linear,
    },
}

impl Mlp {
    fn load(vb: VarBuilder, args: &EvaArgs) -> Result<Self> {
        let (width, inner) = (args.embed_dim, args.inner());
        let norm = || layer_norm(vb.pp("norm"), inner, EPS);
        let up = |name| Linear::load(vb.pp(name), width, inner);
        let down = Linear::load(vb.pp("fc2"), inner, width)?;
        if args.swiglu_mlp {
            return Ok(Self::Gated { gate: up("fc1_g")?, up: up("fc1_x")?, norm: norm()?, down });
        }
        Ok(Self::Plain { up: up("fc1")?, norm: args.scale_mlp.then(norm).transpose()?, down })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain { up, norm, down } => {
                let inner = up.activate(x, Activation::Gelu)?;
                let inner = norm.as_ref().map_or(Ok(inner.clone()), |norm| norm.forward(&inner))?;
                down.forward(&inner)
            }
            Self::Gated { gate, up, norm, down } => {
                let inner = (gate.activate(x, Activation::Silu)? * up.forward(x)?)?;
                down.forward(&norm.forward(&inner)?)
            }
        }
    }
}
