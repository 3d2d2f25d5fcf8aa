//! The decoder of diffusers' AutoencoderKL, channels last.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::blocks::{Groups, PictureAttention, Resnet, Upsample};
use super::config::VaeConfig;
use super::tiles::{Tiling, VaeTiles};
use crate::ops::{Conv2d, GroupNorm, Linear};

#[derive(Debug)]
pub(super) struct VaeDecoder {
    after_quantisation: Option<Linear>,
    enter: Conv2d,
    middle: (Resnet, PictureAttention, Resnet),
    up: Vec<UpBlock>,
    norm: GroupNorm,
    leave: Conv2d,
    scaling: f64,
    tiling: Tiling,
}

#[derive(Debug)]
struct UpBlock {
    resnets: Vec<Resnet>,
    upsample: Option<Upsample>,
}

const EPS: f64 = 1e-6;

impl VaeDecoder {
    pub(super) fn load(vb: VarBuilder, config: &VaeConfig) -> Result<Self> {
        let groups = Groups { count: config.norm_num_groups, eps: EPS };
        let (decoder, latent) = (vb.pp("decoder"), config.latent_channels);
        let (first, last) =
            (config.block_out_channels[0], config.block_out_channels[config.block_out_channels.len() - 1]);
        let middle = decoder.pp("mid_block");
        let resnet = |k| Resnet::load(middle.pp("resnets").pp(k), last, last, None, groups);
        Ok(Self {
            after_quantisation: match config.use_post_quant_conv {
                true => Some(Linear::load(vb.pp("post_quant_conv"), latent, latent)?),
                false => None,
            },
            enter: Conv2d::three(decoder.pp("conv_in"), latent, last)?,
            middle: (
                resnet(0)?,
                PictureAttention::load(middle.pp("attentions.0"), last, groups)?,
                resnet(1)?,
            ),
            up: up_blocks(&decoder.pp("up_blocks"), config, groups)?,
            norm: GroupNorm::load(decoder.pp("conv_norm_out"), groups.count, first, EPS)?,
            leave: Conv2d::three(decoder.pp("conv_out"), first, config.out_channels)?,
            scaling: config.scaling_factor,
            tiling: Tiling::of(config),
        })
    }

    /// Maps the UNet's latents [b, h, w, latent] to pictures [b, scale * h, scale * w, 3], around
    /// -1 to 1.
    pub(super) fn decode(&self, latents: &Tensor, tiles: VaeTiles) -> Result<Tensor> {
        let latents = (latents / self.scaling)?;
        let (_, height, width, _) = latents.dims4()?;
        match self.takes_tiles(tiles, (height, width)) {
            true => self.tiling.decode(&latents, |tile| self.decode_whole(tile)),
            false => self.decode_whole(&latents),
        }
    }

    /// Returns whether pictures of this height and width in latents are decoded in tiles.
    pub(super) fn takes_tiles(&self, tiles: VaeTiles, size: (usize, usize)) -> bool {
        self.tiling.takes(tiles, size)
    }

    fn decode_whole(&self, latents: &Tensor) -> Result<Tensor> {
        let latents =
            self.after_quantisation.as_ref().map_or(Ok(latents.clone()), |linear| linear.forward(latents))?;
        let mut x = self.middle.0.forward(&self.enter.forward(&latents)?, None)?;
        x = self.middle.1.forward(&x)?;
        x = self.middle.2.forward(&x, None)?;
        for block in &self.up {
            x = block.forward(x)?;
        }
        self.leave.forward(&self.norm.silu(&x)?)
    }
}

fn up_blocks(vb: &VarBuilder, config: &VaeConfig, groups: Groups) -> Result<Vec<UpBlock>> {
    let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
    let block = |k: usize| {
        let (vb, outputs) = (vb.pp(k), channels[k]);
        let resnet = |layer: usize| {
            let inputs = if layer == 0 { channels[k.saturating_sub(1)] } else { outputs };
            Resnet::load(vb.pp("resnets").pp(layer), inputs, outputs, None, groups)
        };
        Ok(UpBlock {
            resnets: (0..config.layers_per_block + 1).map(resnet).collect::<Result<_>>()?,
            upsample: (k + 1 != channels.len()).then(|| Upsample::load(vb.clone(), outputs)).transpose()?,
        })
    };
    (0..channels.len()).map(block).collect()
}

impl UpBlock {
    fn forward(&self, mut x: Tensor) -> Result<Tensor> {
        for resnet in &self.resnets {
            x = resnet.forward(&x, None)?;
        }
        let (_, height, width, _) = x.dims4()?;
        self.upsample.as_ref().map_or(Ok(x.clone()), |upsample| upsample.forward(&x, 2 * height, 2 * width))
    }
}
