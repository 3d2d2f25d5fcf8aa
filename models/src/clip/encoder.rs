//! The pre-norm transformer of both towers (transformers' CLIPEncoder).

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder};

use crate::ops::{Activation, Linear, add_in_place, attention, layer_norm};

/// The shape of a tower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub width: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub activation: Activation,
    pub eps: f64,
    pub causal: bool,
}

#[derive(Debug)]
pub(super) struct Encoder(Vec<Layer>);

impl Encoder {
    pub(super) fn load(vb: VarBuilder, shape: Shape) -> Result<Self> {
        let layers = (0..shape.layers).map(|k| Layer::load(vb.pp("layers").pp(k), shape));
        Ok(Self(layers.collect::<Result<_>>()?))
    }

    /// Maps [batch, positions, width] to the same shape.
    pub(super) fn forward(&self, x: Tensor) -> Result<Tensor> {
        self.0.iter().try_fold(x, |x, layer| layer.forward(x))
    }
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    norm2: LayerNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
    shape: Shape,
}

impl Layer {
    fn load(vb: VarBuilder, shape: Shape) -> Result<Self> {
        let (width, inner) = (shape.width, shape.inner);
        let projection = |name| Linear::load(vb.pp("self_attn").pp(name), width, width);
        Ok(Self {
            norm1: layer_norm(vb.pp("layer_norm1"), width, shape.eps)?,
            norm2: layer_norm(vb.pp("layer_norm2"), width, shape.eps)?,
            queries: projection("q_proj")?,
            keys: projection("k_proj")?,
            values: projection("v_proj")?,
            out: projection("out_proj")?,
            up: Linear::load(vb.pp("mlp.fc1"), width, inner)?,
            down: Linear::load(vb.pp("mlp.fc2"), inner, width)?,
            shape,
        })
    }

    fn forward(&self, x: Tensor) -> Result<Tensor> {
        let normal = self.norm1.forward(&x)?;
        let (q, k, v) =
            (self.queries.forward(&normal)?, self.keys.forward(&normal)?, self.values.forward(&normal)?);
        let mixed = attention(&q, &k, &v, self.shape.heads, self.shape.causal, self.out.products())?;
        let x = add_in_place(self.out.forward(&mixed)?, &x)?;
        let inner = self.up.activate(&self.norm2.forward(&x)?, self.shape.activation)?;
        add_in_place(self.down.forward(&inner)?, &x)
    }
}
