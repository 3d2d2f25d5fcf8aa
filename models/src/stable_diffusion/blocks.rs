//! The blocks of diffusers' UNet and autoencoder, channels last.

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder};

use crate::ops::{Conv2d, GeGlu, GroupNorm, Linear, add_in_place, attention, layer_norm, upsample_nearest};

/// The settings of a network's group normalisation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups {
    pub count: usize,
    pub eps: f64,
}

/// ResnetBlock2D.
#[derive(Debug)]
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Linear>,
}

impl Resnet {
    pub(super) fn load(
        vb: VarBuilder,
        inputs: usize,
        outputs: usize,
        time: Option<usize>,
        groups: Groups,
    ) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::load(vb.pp("norm1"), groups.count, inputs, groups.eps)?,
            conv1: Conv2d::three(vb.pp("conv1"), inputs, outputs)?,
            time: time.map(|time| Linear::load(vb.pp("time_emb_proj"), time, outputs)).transpose()?,
            norm2: GroupNorm::load(vb.pp("norm2"), groups.count, outputs, groups.eps)?,
            conv2: Conv2d::three(vb.pp("conv2"), outputs, outputs)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(Linear::load(vb.pp("conv_shortcut"), inputs, outputs)?),
            },
        })
    }

    /// Runs the block on `x` [b, h, w, in]. `time` is SiLU of the time embedding [1, time].
    pub(super) fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let hidden = self.conv1.without_bias(&self.norm1.silu(x)?)?;
        // Bias and time are the same at every position, so the next normalisation adds them.
        let shift = match (&self.time, time) {
            (Some(linear), Some(time)) => (linear.forward(time)?.squeeze(0)? + self.conv1.bias())?,
            _ => self.conv1.bias().clone(),
        };
        let hidden = self.conv2.forward(&self.norm2.shifted_silu(&hidden, &shift)?)?;
        match &self.shortcut {
            Some(shortcut) => add_in_place(hidden, &shortcut.forward(x)?),
            None => add_in_place(hidden, x),
        }
    }
}

/// The keys and values of a transformer block's prompt attention. They are the same in all steps.
pub(super) type KeysAndValues = (Tensor, Tensor);

/// Transformer2DModel.
#[derive(Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    enter: Linear,
    blocks: Vec<TransformerBlock>,
    leave: Linear,
}

impl Transformer {
    pub(super) fn load(
        vb: VarBuilder,
        channels: usize,
        heads: usize,
        context: usize,
        layers: usize,
        groups: usize,
    ) -> Result<Self> {
        let block = |k| TransformerBlock::load(vb.pp("transformer_blocks").pp(k), channels, heads, context);
        Ok(Self {
            norm: GroupNorm::load(vb.pp("norm"), groups, channels, 1e-6)?,
            // A linear layer or a 1x1 convolution, which are the same with channels last.
            enter: Linear::load(vb.pp("proj_in"), channels, channels)?,
            blocks: (0..layers).map(block).collect::<Result<_>>()?,
            leave: Linear::load(vb.pp("proj_out"), channels, channels)?,
        })
    }

    /// Computes the keys and values of each block for the prompt's hidden states [b, tokens,
    /// context].
    pub(super) fn context(&self, prompt: &Tensor) -> Result<Vec<KeysAndValues>> {
        self.blocks
            .iter()
            .map(|block| Ok((block.prompt.keys.forward(prompt)?, block.prompt.values.forward(prompt)?)))
            .collect()
    }

    /// Runs the transformer on `x` [b, h, w, channels]. Takes its blocks' keys and values from
    /// `context`.
    pub(super) fn forward<'a>(
        &self,
        x: &Tensor,
        context: &mut impl Iterator<Item = &'a KeysAndValues>,
    ) -> Result<Tensor> {
        let shape = x.dims4()?;
        let mut hidden = self.enter.forward(&self.norm.forward(x)?)?.flatten(1, 2)?;
        for block in &self.blocks {
            let Some(prompt) = context.next() else {
                candle_core::bail!("a transformer block lacks its prompt")
            };
            hidden = block.forward(hidden, prompt)?;
        }
        add_in_place(self.leave.forward(&hidden.reshape(shape)?)?, x)
    }
}

/// BasicTransformerBlock: self-attention, attention to the prompt, and a gated feed-forward layer.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    itself: Attention,
    norm2: LayerNorm,
    prompt: Attention,
    norm3: LayerNorm,
    gate: GeGlu,
    down: Linear,
}

impl TransformerBlock {
    fn load(vb: VarBuilder, width: usize, heads: usize, context: usize) -> Result<Self> {
        let norm = |name| layer_norm(vb.pp(name), width, 1e-5);
        Ok(Self {
            norm1: norm("norm1")?,
            itself: Attention::load(vb.pp("attn1"), width, width, heads)?,
            norm2: norm("norm2")?,
            prompt: Attention::load(vb.pp("attn2"), width, context, heads)?,
            norm3: norm("norm3")?,
            gate: GeGlu::load(vb.pp("ff.net.0.proj"), width, 4 * width)?,
            down: Linear::load(vb.pp("ff.net.2"), 4 * width, width)?,
        })
    }

    fn forward(&self, x: Tensor, (keys, values): &KeysAndValues) -> Result<Tensor> {
        let normal = self.norm1.forward(&x)?;
        let (own_keys, own_values) =
            (self.itself.keys.forward(&normal)?, self.itself.values.forward(&normal)?);
        let x = add_in_place(self.itself.forward(&normal, &own_keys, &own_values)?, &x)?;
        let x = add_in_place(self.prompt.forward(&self.norm2.forward(&x)?, keys, values)?, &x)?;
        add_in_place(self.down.forward(&self.gate.forward(&self.norm3.forward(&x)?)?)?, &x)
    }
}

#[derive(Debug)]
struct Attention {
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn load(vb: VarBuilder, width: usize, context: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            queries: Linear::load(vb.pp("to_q"), width, width)?,
            keys: Linear::load(vb.pp("to_k"), context, width)?,
            values: Linear::load(vb.pp("to_v"), context, width)?,
            out: Linear::load(vb.pp("to_out.0"), width, width)?,
            heads,
        })
    }

    fn forward(&self, x: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let (queries, products) = (self.queries.forward(x)?, self.out.products());
        self.out.forward(&attention(&queries, keys, values, self.heads, false, products)?)
    }
}

/// The autoencoder's attention over all positions, with one head.
#[derive(Debug)]
pub(super) struct PictureAttention {
    norm: GroupNorm,
    attention: Attention,
}

impl PictureAttention {
    pub(super) fn load(vb: VarBuilder, channels: usize, groups: Groups) -> Result<Self> {
        // Folders written before diffusers 0.16 use the older names.
        let older = !vb.contains_tensor("to_q.weight");
        let names =
            if older { ["query", "key", "value", "proj_attn"] } else { ["to_q", "to_k", "to_v", "to_out.0"] };
        let linear = |name| Linear::load(vb.pp(name), channels, channels);
        Ok(Self {
            norm: GroupNorm::load(vb.pp("group_norm"), groups.count, channels, groups.eps)?,
            attention: Attention {
                queries: linear(names[0])?,
                keys: linear(names[1])?,
                values: linear(names[2])?,
                out: linear(names[3])?,
                heads: 1,
            },
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normal = self.norm.forward(x)?.flatten(1, 2)?;
        let (keys, values) = (self.attention.keys.forward(&normal)?, self.attention.values.forward(&normal)?);
        add_in_place(self.attention.forward(&normal, &keys, &values)?.reshape(x.dims4()?)?, x)
    }
}

/// Upsample2D: nearest neighbours, then a convolution.
#[derive(Debug)]
pub(super) struct Upsample(Conv2d);

impl Upsample {
    pub(super) fn load(vb: VarBuilder, channels: usize) -> Result<Self> {
        Ok(Self(Conv2d::three(vb.pp("upsamplers.0.conv"), channels, channels)?))
    }

    pub(super) fn forward(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.0.forward(&upsample_nearest(x, height, width)?)
    }
}
