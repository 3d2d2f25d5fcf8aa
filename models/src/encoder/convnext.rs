//! timm's ConvNeXt (Liu et al., 2022), channels last: a stem of patches, four stages of depthwise
//! convolutions and feed-forward layers, the mean over all positions, normalised.

#[cfg(feature = "onnx")]
pub(super) mod graph;

use std::path::Path;

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder};
use serde::Deserialize;

use super::timm::Features;
use crate::ModelError;
use crate::ops::{Activation, Conv2d, DepthwiseConv2d, Linear, add_in_place, layer_norm, parameter};

/// timm's arguments, with its defaults. Other arguments are refused, because they mean another
/// network.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConvNextArgs {
    depths: Vec<usize>,
    dims: Vec<usize>,
    patch_size: usize,
    kernel_sizes: usize,
    norm_eps: f64,
    /// The initial layer scale; None if the blocks' outputs are not scaled.
    ls_init_value: Option<f64>,
}

impl Default for ConvNextArgs {
    fn default() -> Self {
        Self {
            depths: vec![3, 3, 9, 3],
            dims: vec![96, 192, 384, 768],
            patch_size: 4,
            kernel_sizes: 7,
            norm_eps: 1e-6,
            ls_init_value: Some(1e-6),
        }
    }
}

impl ConvNextArgs {
    pub(super) fn check(&self, path: &Path) -> std::result::Result<(), ModelError> {
        if self.depths.len() != 4 || self.dims.len() != 4 {
            return Err(ModelError::broken(path, "its vision tower has not four stages"));
        }
        if self.patch_size == 0 || self.kernel_sizes.is_multiple_of(2) {
            return Err(ModelError::unsupported(path, "kernels of an even size"));
        }
        Ok(())
    }

    /// The number of a picture's features.
    pub(super) fn width(&self) -> usize {
        self.dims[3]
    }

    /// The side, in pixels, of a position of the last stage.
    pub(super) fn stride(&self) -> usize {
        self.patch_size * 8
    }
}

#[derive(Debug)]
pub(super) struct ConvNext {
    stem: Conv2d,
    norm: LayerNorm,
    stages: Vec<Stage>,
    last_norm: LayerNorm,
}

impl ConvNext {
    /// Loads the trunk's tensors.
    pub(super) fn load(vb: VarBuilder, args: &ConvNextArgs) -> Result<Self> {
        let stage = |k: usize| Stage::load(vb.pp("stages").pp(k), args, k);
        Ok(Self {
            stem: Conv2d::load(vb.pp("stem.0"), 3, args.dims[0], (args.patch_size, args.patch_size, 0))?,
            norm: layer_norm(vb.pp("stem.1"), args.dims[0], args.norm_eps)?,
            stages: (0..4).map(stage).collect::<Result<_>>()?,
            last_norm: layer_norm(vb.pp("head.norm"), args.width(), args.norm_eps)?,
        })
    }
}

impl Features for ConvNext {
    fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(&self.stem.forward(pixels)?)?;
        let x = self.stages.iter().try_fold(x, |x, stage| stage.forward(x))?;
        self.last_norm.forward(&x.flatten(1, 2)?.mean(1)?)
    }
}

#[derive(Debug)]
struct Stage {
    /// Halves the height and the width.
    downsample: Option<(LayerNorm, Conv2d)>,
    blocks: Vec<Block>,
}

impl Stage {
    fn load(vb: VarBuilder, args: &ConvNextArgs, stage: usize) -> Result<Self> {
        let width = args.dims[stage];
        let downsample = || {
            let before = args.dims[stage - 1];
            let norm = layer_norm(vb.pp("downsample.0"), before, args.norm_eps)?;
            Ok::<_, candle_core::Error>((
                norm,
                Conv2d::load(vb.pp("downsample.1"), before, width, (2, 2, 0))?,
            ))
        };
        let block = |k: usize| Block::load(vb.pp("blocks").pp(k), args, width);
        Ok(Self {
            downsample: (stage > 0).then(downsample).transpose()?,
            blocks: (0..args.depths[stage]).map(block).collect::<Result<_>>()?,
        })
    }

    fn forward(&self, x: Tensor) -> Result<Tensor> {
        let x = match &self.downsample {
            Some((norm, conv)) => conv.forward(&norm.forward(&x)?)?,
            None => x,
        };
        self.blocks.iter().try_fold(x, |x, block| block.forward(&x))
    }
}

#[derive(Debug)]
struct Block {
    depthwise: DepthwiseConv2d,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    scale: Option<Tensor>,
}

impl Block {
    fn load(vb: VarBuilder, args: &ConvNextArgs, width: usize) -> Result<Self> {
        Ok(Self {
            depthwise: DepthwiseConv2d::load(vb.pp("conv_dw"), width, args.kernel_sizes)?,
            norm: layer_norm(vb.pp("norm"), width, args.norm_eps)?,
            up: Linear::load(vb.pp("mlp.fc1"), width, 4 * width)?,
            down: Linear::load(vb.pp("mlp.fc2"), 4 * width, width)?,
            scale: args.ls_init_value.map(|_| parameter(&vb, width, "gamma")).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normal = self.norm.forward(&self.depthwise.forward(x)?)?;
        let out = self.down.forward(&self.up.activate(&normal, Activation::Gelu)?)?;
        let out = self.scale.as_ref().map_or(Ok(out.clone()), |scale| out.broadcast_mul(scale))?;
        add_in_place(out, x)
    }
}
