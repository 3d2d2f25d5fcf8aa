//! Linear layers with their bias and activation, and diffusers' gated GELU.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use serde::Deserialize;

use super::buffers::{floats, rows_per_task, with_buffer};
use super::kernels;
use super::matmul::{Packed, Products};
use super::parameters::{bias, reshaped, uniform};

/// The activation after a linear layer, with its names in config.json.
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
    /// Computes the activation of `x + bias` in place. The rows of `x` have `bias.len()` values.
    pub(super) fn add_bias(self, x: &mut [f32], bias: &[f32]) {
        kernels::dispatch(
            #[inline(always)]
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

/// A linear layer.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Tensor,
    inputs: usize,
    outputs: usize,
}

#[derive(Debug, Clone)]
enum Weight {
    /// On the CPU, with the bias.
    Packed(Arc<Packed>, Vec<f32>),
    /// On other devices, [in, out].
    Plain(Tensor),
}

impl Linear {
    /// Loads `weight` [out, in] (or a 1x1 convolution's [out, in, 1, 1]) and `bias` [out], if there
    /// is one.
    pub(crate) fn load(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = vb.get_unchecked("weight")?;
        if weight.elem_count() != inputs * outputs || weight.dim(0)? != outputs {
            bail!("{} has shape {:?}, not [{outputs}, {inputs}]", vb.prefix(), weight.dims());
        }
        Self::from_rows(&reshaped(&weight, (outputs, inputs))?, bias(&vb, outputs)?)
    }

    /// Creates a layer from a weight [out, in], which keeps its precision on the CPU.
    pub(crate) fn from_rows(weight: &Tensor, bias: Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let kept = if uniform(weight) || !weight.device().is_cpu() {
            Weight::Plain(if uniform(weight) { weight.t()? } else { weight.t()?.contiguous()? })
        } else {
            Weight::Packed(Arc::new(Packed::from_rows(weight)?), bias.to_vec1()?)
        };
        Ok(Self { weight: kept, bias, inputs, outputs })
    }

    /// The type of this layer's products on the CPU, so that the operations around it use the same
    /// one.
    pub(crate) fn products(&self) -> Products {
        match &self.weight {
            Weight::Packed(packed, _) => packed.products(),
            Weight::Plain(_) => Products::F32,
        }
    }

    pub(crate) fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// Returns the weight as [out, in].
    pub(super) fn rows(&self) -> Result<Tensor> {
        match &self.weight {
            Weight::Packed(packed, _) => {
                Tensor::from_vec(packed.to_rows(), (self.outputs, self.inputs), self.bias.device())
            }
            Weight::Plain(weight) => weight.t()?.contiguous(),
        }
    }

    /// Maps [.., in] to [.., out] and applies `activation`.
    pub(crate) fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        if let Weight::Packed(weight, bias) = &self.weight {
            return x.contiguous()?.apply_op1_no_bwd(&Op { weight, bias, activation });
        }
        activation.composed(&self.composed(x)?)
    }

    /// Maps [.., in] to [.., out].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.activate(x, Activation::None)
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let flat = x.reshape(((), self.inputs))?;
        let flat = match &self.weight {
            Weight::Packed(..) => flat.matmul(&self.rows()?.t()?)?,
            Weight::Plain(weight) => flat.matmul(weight)?,
        };
        flat.reshape(with_last(x.dims(), self.outputs))?.broadcast_add(&self.bias)
    }

    /// On the CPU, maps `x` [rows, in] to `out` [rows, out].
    pub(super) fn write(&self, x: &[f32], with_bias: bool, out: &mut [f32]) -> Result<()> {
        let Weight::Packed(weight, bias) = &self.weight else { bail!("the weight is not on the CPU") };
        weight.product(x, out);
        if with_bias {
            Activation::None.add_bias(out, bias);
        }
        Ok(())
    }
}

fn with_last(dims: &[usize], last: usize) -> Vec<usize> {
    let mut dims = dims.to_vec();
    dims.pop();
    dims.push(last);
    dims
}

struct Op<'a> {
    weight: &'a Packed,
    bias: &'a [f32],
    activation: Activation,
}

impl CustomOp1 for Op<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, inputs, outputs) = (floats(x, x_l)?, self.weight.inputs(), self.bias.len());
        if x_l.dims().last() != Some(&inputs) {
            bail!("a linear layer of {inputs} inputs was given {:?}", x_l.shape());
        }
        let count = x.len() / inputs;
        let rows = rows_per_task(count);
        let mut out = vec![0f32; count * outputs];
        out.par_chunks_mut(rows * outputs).zip(x.par_chunks(rows * inputs)).for_each(|(out, x)| {
            self.weight.product(x, out);
            self.activation.add_bias(out, self.bias);
        });
        Ok((CpuStorage::F32(out), with_last(x_l.dims(), outputs).into()))
    }
}

struct Gate<'a>(&'a Packed, &'a [f32]);

impl CustomOp1 for Gate<'_> {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self(weight, bias) = self;
        let (x, inputs, width) = (floats(x, x_l)?, weight.inputs(), bias.len() / 2);
        let count = x.len() / inputs;
        let rows = rows_per_task(count);
        let mut out = vec![0f32; count * width];
        out.par_chunks_mut(rows * width).zip(x.par_chunks(rows * inputs)).for_each(|(out, x)| {
            with_buffer(2 * out.len(), |both| {
                weight.product(x, both);
                kernels::dispatch(
                    #[inline(always)]
                    || kernels::geglu(both, bias, out),
                );
            });
        });
        Ok((CpuStorage::F32(out), with_last(x_l.dims(), width).into()))
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
        match &self.0.weight {
            Weight::Packed(weight, bias) => x.contiguous()?.apply_op1_no_bwd(&Gate(weight, bias)),
            Weight::Plain(_) => self.composed(x),
        }
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let halves = self.0.composed(x)?.chunk(2, candle_core::D::Minus1)?;
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
            let plain = layer.composed(&x).unwrap();
            close(&layer.activate(&x, activation).unwrap(), &activation.composed(&plain).unwrap(), 2e-6);
        }
    }

    #[test]
    fn geglu_equals_candles() {
        let (gate, x) = (GeGlu(layer(24, 40)), random(&[2, 5, 24], 4));
        close(&gate.forward(&x).unwrap(), &gate.composed(&x).unwrap(), 2e-6);
    }

    #[test]
    fn a_wrong_shape_is_named() {
        let tensors = [("proj.weight".to_owned(), random(&[4, 3], 6))].into_iter().collect();
        let vb = VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
        let error = Linear::load(vb.pp("proj"), 5, 4).unwrap_err().to_string();
        assert!(error.contains("proj") && error.contains("[4, 3]"), "{error}");
    }
}
