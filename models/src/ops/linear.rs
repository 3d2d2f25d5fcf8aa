//! Linear layers with their bias and activation, and the gated GELU of diffusers.

use candle_core::{CpuStorage, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use serde::Deserialize;

use super::custom::{TASK, floats, floats_mut};
use super::kernels;

/// What follows a linear layer, by its name in config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    #[serde(skip)]
    None,
    #[serde(alias = "swish")]
    Silu,
    Gelu,
    QuickGelu,
    #[serde(alias = "gelu_new")]
    GeluPytorchTanh,
    Relu,
}

impl Activation {
    /// `x + bias` through the activation, in place; rows of `bias.len()`.
    pub(super) fn add_bias(self, x: &mut [f32], bias: &[f32]) {
        kernels::dispatch(
            || match self {
                Self::None => kernels::add_bias(x, bias, |x| x),
                Self::Silu => kernels::add_bias(x, bias, kernels::silu),
                Self::Gelu => kernels::add_bias(x, bias, kernels::gelu),
                Self::QuickGelu => kernels::add_bias(x, bias, kernels::quick_gelu),
                Self::GeluPytorchTanh => kernels::add_bias(x, bias, kernels::gelu_tanh),
                Self::Relu => kernels::add_bias(x, bias, |x| x.max(0.0)),
            },
        );
    }

    fn composed(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu_erf(),
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Self::GeluPytorchTanh => x.gelu(),
            Self::Relu => x.relu(),
        }
    }
}

struct AddBias(Activation);

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_l: &Layout, bias: &CpuStorage, bias_l: &Layout) -> Result<()> {
        let (x, bias) = (floats_mut(x, x_l)?, floats(bias, bias_l)?);
        if !x.len().is_multiple_of(bias.len()) {
            bail!("a bias of {} cannot be added to {} values", bias.len(), x.len());
        }
        let rows = TASK.div_ceil(bias.len()) * bias.len();
        x.par_chunks_mut(rows).for_each(|x| self.0.add_bias(x, bias));
        Ok(())
    }
}

/// A linear layer, its weight stored as [in, out].
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// From `weight` [out, in] (or a 1x1 convolution's [out, in, 1, 1]) and, where there is one, `bias` [out].
    pub(crate) fn load(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = vb.get_unchecked("weight")?;
        if weight.elem_count() != inputs * outputs || weight.dim(0)? != outputs {
            bail!("{} has shape {:?}, not [{outputs}, {inputs}]", vb.prefix(), weight.dims());
        }
        let bias = match vb.contains_tensor("bias") {
            true => vb.get(outputs, "bias")?,
            false => Tensor::zeros(outputs, vb.dtype(), vb.device())?,
        };
        Self::from_rows(&weight.reshape((outputs, inputs))?, bias)
    }

    /// From a weight of [out, in].
    pub(crate) fn from_rows(weight: &Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: weight.t()?.contiguous()?, bias })
    }

    pub(crate) fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The weight as [out, in].
    pub(super) fn rows(&self) -> Result<Tensor> {
        self.weight.t()?.contiguous()
    }

    /// [.., in] -> [.., out], without the bias.
    pub(crate) fn product(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        let rows = x.elem_count() / inputs;
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        x.reshape((rows, inputs))?.matmul(&self.weight)?.reshape(shape)
    }

    /// [.., in] -> [.., out] through `activation`.
    pub(crate) fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let product = self.product(x)?;
        if product.device().is_cpu() {
            product.inplace_op2(&self.bias, &AddBias(activation))?;
            return Ok(product);
        }
        activation.composed(&product.broadcast_add(&self.bias)?)
    }

    /// [.., in] -> [.., out].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.activate(x, Activation::None)
    }
}

struct Gate;

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout, bias: &CpuStorage, bias_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (values, bias) = (floats(x, x_l)?, floats(bias, bias_l)?);
        let width = bias.len() / 2;
        let rows = TASK.div_ceil(width);
        let mut out = vec![0f32; values.len() / 2];
        out.par_chunks_mut(rows * width).zip(values.par_chunks(rows * 2 * width)).for_each(|(out, x)| {
            kernels::dispatch(
                || kernels::geglu(x, bias, out),
            );
        });
        let mut shape = x_l.dims().to_vec();
        shape.pop();
        shape.push(width);
        Ok((CpuStorage::F32(out), shape.into()))
    }
}

/// diffusers' GEGLU: half of a linear layer's output times GELU of the other half.
#[derive(Debug, Clone)]
pub(crate) struct GeGlu(Linear);

impl GeGlu {
    pub(crate) fn load(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self(Linear::load(vb, inputs, 2 * outputs)?))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = self.0.product(x)?;
        if product.device().is_cpu() { product.apply_op2_no_bwd(&self.0.bias, &Gate) } else { self.composed(&product) }
    }

    fn composed(&self, product: &Tensor) -> Result<Tensor> {
        let halves = product.broadcast_add(&self.0.bias)?.chunk(2, candle_core::D::Minus1)?;
        &halves[0] * halves[1].gelu_erf()?
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{close, random};

    fn layer(inputs: usize, outputs: usize) -> Linear {
        Linear::from_rows(&random(&[outputs, inputs], 1), random(&[outputs], 2)).unwrap()
    }

    #[test]
    fn every_activation_equals_candles() {
        use Activation::*;
        let (layer, x) = (layer(24, 40), random(&[3, 7, 24], 3));
        for activation in [None, Silu, Gelu, QuickGelu, GeluPytorchTanh, Relu] {
            let plain = layer.product(&x).unwrap().broadcast_add(layer.bias()).unwrap();
            close(&layer.activate(&x, activation).unwrap(), &activation.composed(&plain).unwrap(), 2e-6);
        }
    }

    #[test]
    fn geglu_equals_candles() {
        let (gate, x) = (GeGlu(layer(24, 40)), random(&[2, 5, 24], 4));
        let product = gate.0.product(&x).unwrap();
        close(&gate.forward(&x).unwrap(), &gate.composed(&product).unwrap(), 2e-6);
    }

    #[test]
    fn a_wrong_shape_is_named() {
        let tensors = [("proj.weight".to_owned(), random(&[4, 3], 6))].into_iter().collect();
        let vb = VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
        let error = Linear::load(vb.pp("proj"), 5, 4).unwrap_err().to_string();
        assert!(error.contains("proj") && error.contains("[4, 3]"), "{error}");
    }
}
