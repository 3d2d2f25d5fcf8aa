//! diffusers' UNet2DConditionModel as Stable Diffusion 1 and 2 configure it, channels last.
//!
//! candle-transformers has this network too. This one exists because theirs gates its feed-forward
//! layers with the tanh approximation of GELU, unlike diffusers, and takes several times as long on
//! CPUs (see models/README.md).

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::blocks::{Groups, KeysAndValues, Resnet, Transformer, Upsample};
use super::config::UnetConfig;
use crate::ops::{Activation, Conv2d, GroupNorm, Linear, activations};

#[derive(Debug)]
pub(super) struct Unet {
    enter: Conv2d,
    time: TimeEmbedding,
    down: Vec<DownBlock>,
    middle: (Resnet, Transformer, Resnet),
    up: Vec<UpBlock>,
    norm: GroupNorm,
    leave: Conv2d,
}

/// The keys and values of a batch of prompts for every transformer block, in the order of the
/// forward pass.
#[derive(Debug)]
pub(super) struct Context(Vec<KeysAndValues>);

/// Resnets, each followed by a transformer in a cross-attention block.
#[derive(Debug)]
struct Layers(Vec<(Resnet, Option<Transformer>)>);

#[derive(Debug)]
struct DownBlock {
    layers: Layers,
    downsample: Option<Conv2d>,
}

#[derive(Debug)]
struct UpBlock {
    layers: Layers,
    upsample: Option<Upsample>,
}

/// The context of loading a block.
struct Plan<'a> {
    config: &'a UnetConfig,
    time: usize,
    groups: Groups,
}

impl Plan<'_> {
    fn channels(&self, block: usize) -> usize {
        self.config.block_out_channels[block]
    }

    fn last(&self) -> usize {
        self.config.block_out_channels.len() - 1
    }

    fn resnet(&self, vb: &VarBuilder, layer: usize, inputs: usize, outputs: usize) -> Result<Resnet> {
        Resnet::load(vb.pp("resnets").pp(layer), inputs, outputs, Some(self.time), self.groups)
    }

    /// Loads a transformer. `block` counts the down blocks; the up blocks have the same
    /// transformers.
    fn transformer(&self, vb: &VarBuilder, layer: usize, block: usize) -> Result<Transformer> {
        let (config, layers) = (self.config, self.config.transformer_layers_per_block.of(block));
        let (channels, heads) = (self.channels(block), config.heads(block));
        let vb = vb.pp("attentions").pp(layer);
        Transformer::load(vb, channels, heads, config.cross_attention_dim, layers, self.groups.count)
    }

    fn down(&self, vb: VarBuilder, block: usize) -> Result<DownBlock> {
        let channels = self.channels(block);
        let attends = self.config.down_block_types[block] == "CrossAttnDownBlock2D";
        let layer = |k: usize| {
            let inputs = if k == 0 { self.channels(block.saturating_sub(1)) } else { channels };
            let resnet = self.resnet(&vb, k, inputs, channels)?;
            Ok((resnet, attends.then(|| self.transformer(&vb, k, block)).transpose()?))
        };
        Ok(DownBlock {
            layers: Layers((0..self.config.layers_per_block.of(block)).map(layer).collect::<Result<_>>()?),
            downsample: match block == self.last() {
                true => None,
                false => Some(Conv2d::load(vb.pp("downsamplers.0.conv"), channels, channels, (3, 2, 1))?),
            },
        })
    }

    /// Loads the `k`th up block.
    fn up(&self, vb: VarBuilder, k: usize) -> Result<UpBlock> {
        let block = self.last() - k;
        let channels = self.channels(block);
        let layers = self.config.layers_per_block.of(block) + 1;
        let attends = self.config.up_block_types[k] == "CrossAttnUpBlock2D";
        let layer = |layer: usize| {
            let from = if layer == 0 { self.channels((block + 1).min(self.last())) } else { channels };
            let skip = if layer + 1 == layers { self.channels(block.saturating_sub(1)) } else { channels };
            let resnet = self.resnet(&vb, layer, from + skip, channels)?;
            Ok((resnet, attends.then(|| self.transformer(&vb, layer, block)).transpose()?))
        };
        Ok(UpBlock {
            layers: Layers((0..layers).map(layer).collect::<Result<_>>()?),
            upsample: (block != 0).then(|| Upsample::load(vb.clone(), channels)).transpose()?,
        })
    }

    fn middle(&self, vb: VarBuilder) -> Result<(Resnet, Transformer, Resnet)> {
        let channels = self.channels(self.last());
        let resnet = |k| self.resnet(&vb, k, channels, channels);
        Ok((resnet(0)?, self.transformer(&vb, 0, self.last())?, resnet(1)?))
    }
}

impl Unet {
    pub(super) fn load(vb: VarBuilder, config: &UnetConfig) -> Result<Self> {
        let first = config.block_out_channels[0];
        let groups = Groups { count: config.norm_num_groups, eps: config.norm_eps };
        let plan = Plan { config, time: 4 * first, groups };
        let blocks = config.block_out_channels.len();
        Ok(Self {
            enter: Conv2d::three(vb.pp("conv_in"), config.in_channels, first)?,
            time: TimeEmbedding::load(vb.pp("time_embedding"), first, config)?,
            down: (0..blocks).map(|k| plan.down(vb.pp("down_blocks").pp(k), k)).collect::<Result<_>>()?,
            middle: plan.middle(vb.pp("mid_block"))?,
            up: (0..blocks).map(|k| plan.up(vb.pp("up_blocks").pp(k), k)).collect::<Result<_>>()?,
            norm: GroupNorm::load(vb.pp("conv_norm_out"), groups.count, first, groups.eps)?,
            leave: Conv2d::three(vb.pp("conv_out"), first, config.out_channels)?,
        })
    }

    /// Computes the keys and values of the prompts' hidden states [b, tokens, cross_attention_dim].
    pub(super) fn context(&self, prompts: &Tensor) -> Result<Context> {
        let down = self.down.iter().flat_map(|block| block.layers.transformers());
        let up = self.up.iter().flat_map(|block| block.layers.transformers());
        let all = down.chain(std::iter::once(&self.middle.1)).chain(up);
        let contexts: Vec<_> = all.map(|transformer| transformer.context(prompts)).collect::<Result<_>>()?;
        Ok(Context(contexts.into_iter().flatten().collect()))
    }

    /// Returns the prediction [b, h, w, out] for latents [b, h, w, in] at a timestep.
    pub(super) fn forward(&self, latents: &Tensor, timestep: f32, context: &Context) -> Result<Tensor> {
        let time = self.time.forward(timestep, latents.device())?;
        let mut context = context.0.iter();
        let mut x = self.enter.forward(latents)?;
        let mut skips = vec![x.clone()];
        for block in &self.down {
            for (resnet, transformer) in &block.layers.0 {
                x = one_layer(resnet, transformer.as_ref(), &x, &time, &mut context)?;
                skips.push(x.clone());
            }
            if let Some(downsample) = &block.downsample {
                x = downsample.forward(&x)?;
                skips.push(x.clone());
            }
        }
        x = self.middle.0.forward(&x, Some(&time))?;
        x = self.middle.1.forward(&x, &mut context)?;
        x = self.middle.2.forward(&x, Some(&time))?;
        for block in &self.up {
            x = block.forward(x, &mut skips, &time, &mut context)?;
        }
        self.leave.forward(&self.norm.silu(&x)?)
    }
}

impl Layers {
    fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        self.0.iter().filter_map(|(_, transformer)| transformer.as_ref())
    }
}

impl UpBlock {
    fn forward<'a>(
        &self,
        mut x: Tensor,
        skips: &mut Vec<Tensor>,
        time: &Tensor,
        context: &mut impl Iterator<Item = &'a KeysAndValues>,
    ) -> Result<Tensor> {
        for (resnet, transformer) in &self.layers.0 {
            let Some(skip) = skips.pop() else { candle_core::bail!("an up block lacks its skip connection") };
            let joined = Tensor::cat(&[&x, &skip], 3)?;
            x = one_layer(resnet, transformer.as_ref(), &joined, time, context)?;
        }
        match (&self.upsample, skips.last()) {
            (Some(upsample), Some(next)) => {
                let (_, height, width, _) = next.dims4()?;
                upsample.forward(&x, height, width)
            }
            _ => Ok(x),
        }
    }
}

fn one_layer<'a>(
    resnet: &Resnet,
    transformer: Option<&Transformer>,
    x: &Tensor,
    time: &Tensor,
    context: &mut impl Iterator<Item = &'a KeysAndValues>,
) -> Result<Tensor> {
    let x = resnet.forward(x, Some(time))?;
    transformer.map_or_else(|| Ok(x.clone()), |transformer| transformer.forward(&x, context))
}

/// The sinusoidal embedding of a timestep and its two linear layers.
#[derive(Debug)]
struct TimeEmbedding {
    frequencies: Vec<f32>,
    cosine_first: bool,
    dtype: DType,
    linear1: Linear,
    linear2: Linear,
}

impl TimeEmbedding {
    fn load(vb: VarBuilder, width: usize, config: &UnetConfig) -> Result<Self> {
        let half = width / 2;
        let frequency =
            |k: usize| (-(10_000f64.ln()) * k as f64 / (half as f64 - config.freq_shift)).exp() as f32;
        Ok(Self {
            frequencies: (0..half).map(frequency).collect(),
            cosine_first: config.flip_sin_to_cos,
            dtype: activations(&vb),
            linear1: Linear::load(vb.pp("linear_1"), width, 4 * width)?,
            linear2: Linear::load(vb.pp("linear_2"), 4 * width, 4 * width)?,
        })
    }

    /// Returns SiLU of the embedding [1, 4 * width], which is the input of the resnets.
    fn forward(&self, timestep: f32, device: &Device) -> Result<Tensor> {
        let angles = self.frequencies.iter().map(|frequency| timestep * frequency);
        let (sines, cosines): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let values = if self.cosine_first { [cosines, sines] } else { [sines, cosines] }.concat();
        let width = values.len();
        let values = Tensor::from_vec(values, (1, width), device)?.to_dtype(self.dtype)?;
        self.linear2.activate(&self.linear1.activate(&values, Activation::Silu)?, Activation::Silu)
    }
}
