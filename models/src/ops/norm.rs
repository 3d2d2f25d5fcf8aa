//! Group normalisation (Wu and He, 2018), channels last, with an optional shift before it and an
//! optional SiLU after it.

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::buffers::floats;
use super::kernels;
use super::parameters::parameter;

/// A group normalisation over [batch, height, width, channels].
#[derive(Debug, Clone)]
pub(crate) struct GroupNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    groups: usize,
    eps: f64,
    /// Weight and bias as tensors if the network is not on the CPU.
    elsewhere: Option<(Tensor, Tensor)>,
}

impl GroupNorm {
    pub(crate) fn load(vb: VarBuilder, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            candle_core::bail!("{}: {channels} channels cannot be divided into {groups} groups", vb.prefix());
        }
        let tensor = |name| parameter(&vb, channels, name)?.to_dtype(DType::F32);
        let (weight, bias) = (tensor("weight")?, tensor("bias")?);
        let (of_weight, of_bias) = (weight.to_vec1()?, bias.to_vec1()?);
        let elsewhere = (!vb.device().is_cpu()).then_some((weight, bias));
        Ok(Self { weight: of_weight, bias: of_bias, groups, eps, elsewhere })
    }

    /// Returns the normalisation of `x`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, false)
    }

    /// Returns SiLU of the normalisation of `x`.
    pub(crate) fn silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, true)
    }

    /// Returns SiLU of the normalisation of `x + shift`, with `shift` [channels].
    pub(crate) fn shifted_silu(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        self.run(x, Some(shift), true)
    }

    fn run(&self, x: &Tensor, shift: Option<&Tensor>, silu: bool) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.composed(x, shift, silu);
        }
        let op = Op { norm: self, shifted: shift.is_some(), silu };
        x.contiguous()?.apply_op2_no_bwd(shift.unwrap_or(x), &op)
    }

    /// The formula in candle's operations, in f32: a group of a large picture has more values than
    /// f16 can sum.
    fn composed(&self, x: &Tensor, shift: Option<&Tensor>, silu: bool) -> Result<Tensor> {
        let (dtype, x) = (x.dtype(), x.to_dtype(DType::F32)?);
        let x = match shift {
            Some(shift) => x.broadcast_add(&shift.to_dtype(DType::F32)?)?,
            None => x,
        };
        let (batch, height, width, channels) = x.dims4()?;
        let grouped = x.reshape((batch, height * width, self.groups, channels / self.groups))?;
        let grouped = grouped.transpose(1, 2)?.contiguous()?.flatten_from(2)?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
        let spread = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let normal = centred.broadcast_div(&spread)?;
        let normal =
            normal.reshape((batch, self.groups, height * width, channels / self.groups))?.transpose(1, 2)?;
        let (weight, bias) = self.affine(&x)?;
        let normal = normal.reshape((batch, height, width, channels))?;
        let out = normal.broadcast_mul(&weight)?.broadcast_add(&bias)?;
        if silu { out.silu()?.to_dtype(dtype) } else { out.to_dtype(dtype) }
    }

    /// Returns the weight and the bias on the device of `x`.
    fn affine(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), x.device());
        self.elsewhere.clone().map_or_else(|| Ok((tensor(&self.weight)?, tensor(&self.bias)?)), Ok)
    }
}

struct Op<'a> {
    norm: &'a GroupNorm,
    shifted: bool,
    silu: bool,
}

impl CustomOp2 for Op<'_> {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_l: &Layout,
        shift: &CpuStorage,
        shift_l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = floats(x, x_l)?;
        let kernel = kernels::GroupNorm {
            groups: self.norm.groups,
            eps: self.norm.eps as f32,
            weight: &self.norm.weight,
            bias: &self.norm.bias,
            shift: if self.shifted { Some(floats(shift, shift_l)?) } else { None },
        };
        let (batch, ..) = x_l.shape().dims4()?;
        let picture = values.len() / batch;
        let mut out = vec![0f32; values.len()];
        out.par_chunks_mut(picture).zip(values.par_chunks(picture)).for_each(|(out, x)| {
            kernels::dispatch(
                #[inline(always)]
                || match self.silu {
                    true => kernel.run(x, out, kernels::silu),
                    false => kernel.run(x, out, |x| x),
                },
            );
        });
        Ok((CpuStorage::F32(out), x_l.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn it_equals_the_composed_formula() {
        let values = |seed| random(&[24], seed).to_vec1::<f32>().unwrap();
        let norm = GroupNorm { weight: values(1), bias: values(2), groups: 6, eps: 1e-5, elsewhere: None };
        let (x, shift) = (random(&[3, 5, 4, 24], 3), random(&[24], 4));
        close(&norm.forward(&x).unwrap(), &norm.composed(&x, None, false).unwrap(), 3e-6);
        close(&norm.silu(&x).unwrap(), &norm.composed(&x, None, true).unwrap(), 3e-6);
        close(&norm.shifted_silu(&x, &shift).unwrap(), &norm.composed(&x, Some(&shift), true).unwrap(), 3e-6);
    }

    #[test]
    fn sixteen_bits_are_normalised_in_f32() {
        let norm =
            GroupNorm { weight: vec![1.0; 2], bias: vec![0.0; 2], groups: 1, eps: 1e-5, elsewhere: None };
        // The sum of 80,000 squares of about 8 does not fit in f16.
        let x = (random(&[1, 200, 200, 2], 6) * 5.0).unwrap();
        let found = norm.composed(&x.to_dtype(DType::F16).unwrap(), None, true).unwrap();
        assert_eq!(found.dtype(), DType::F16);
        close(&found.to_dtype(DType::F32).unwrap(), &norm.silu(&x).unwrap(), 5e-3);
    }

    #[test]
    fn it_equals_candles_group_norm() {
        use candle_nn::Module;
        let values = |seed| random(&[24], seed);
        let vector = |seed| values(seed).to_vec1::<f32>().unwrap();
        let norm = GroupNorm { weight: vector(1), bias: vector(2), groups: 4, eps: 1e-6, elsewhere: None };
        let theirs = candle_nn::GroupNorm::new(values(1), values(2), 24, 4, 1e-6).unwrap();
        let x = (random(&[2, 3, 3, 24], 5) * 7.0).unwrap();
        let channels_first = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let expected = theirs.forward(&channels_first).unwrap().permute((0, 2, 3, 1)).unwrap();
        close(&norm.forward(&x).unwrap(), &expected, 3e-6);
    }
}
