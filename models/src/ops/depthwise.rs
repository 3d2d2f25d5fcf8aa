//! Depthwise convolution, channels last: each channel has its own kernel, and the size is kept.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::buffers::floats;
use super::kernels;
use super::parameters::{bias, parameter};

/// A depthwise convolution over [batch, height, width, channels], padded with zeros.
#[derive(Debug)]
pub(crate) struct DepthwiseConv2d {
    /// [size, size, channels]
    kernel: Tensor,
    bias: Tensor,
    /// The kernel for the CPU.
    plain: Plain,
    size: usize,
}

#[derive(Debug)]
struct Plain {
    kernel: Vec<f32>,
    bias: Vec<f32>,
    size: usize,
}

impl DepthwiseConv2d {
    /// Loads `weight` [channels, 1, size, size] and `bias` [channels], if there is one. `size` is
    /// odd.
    pub(crate) fn load(vb: VarBuilder, channels: usize, size: usize) -> Result<Self> {
        let weight = parameter(&vb, (channels, 1, size, size), "weight")?;
        let kernel = weight.squeeze(1)?.permute((1, 2, 0))?.contiguous()?;
        let bias = bias(&vb, channels)?;
        let flat = |values: &Tensor| values.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let plain = Plain { kernel: flat(&kernel)?, bias: flat(&bias)?, size };
        Ok(Self { kernel, bias, plain, size })
    }

    /// Maps [b, h, w, channels] to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match x.device().is_cpu() {
            true => x.contiguous()?.apply_op1_no_bwd(&self.plain),
            false => self.composed(x),
        }
    }

    /// The formula in candle's operations, in f32: sums the picture shifted by each position of the
    /// kernel, times the kernel's values there. candle's own convolution would run once per
    /// channel.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        let (dtype, half, float) = (x.dtype(), self.size / 2, |x: &Tensor| x.to_dtype(DType::F32));
        let padded = float(x)?.pad_with_zeros(1, half, half)?.pad_with_zeros(2, half, half)?;
        let kernel = float(&self.kernel)?;
        let places = (0..self.size * self.size).map(|at| (at / self.size, at % self.size));
        let terms = places.map(|(dy, dx)| {
            let shifted = padded.narrow(1, dy, height)?.narrow(2, dx, width)?;
            shifted.broadcast_mul(&kernel.get(dy)?.get(dx)?)
        });
        let nothing = x.zeros_like()?.to_dtype(DType::F32)?.broadcast_add(&float(&self.bias)?);
        terms.fold(nothing, |sum, term| sum? + term?)?.to_dtype(dtype)
    }
}

impl CustomOp1 for Plain {
    fn name(&self) -> &'static str {
        "depthwise-conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (values, (_, height, width, channels)) = (floats(x, layout)?, layout.shape().dims4()?);
        if channels != self.bias.len() {
            candle_core::bail!("a convolution of {} channels was given {channels}", self.bias.len());
        }
        let line = width * channels;
        let mut out = vec![0f32; values.len()];
        out.par_chunks_mut(line).enumerate().for_each(|(row, out)| {
            let picture = &values[row / height * height * line..][..height * line];
            kernels::dispatch(
                #[inline(always)]
                || self.row(picture, height, row % height, out),
            );
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

impl Plain {
    /// Computes a line of the output [width, channels] from a picture [height, width, channels].
    #[inline(always)]
    fn row(&self, picture: &[f32], height: usize, y: usize, out: &mut [f32]) {
        let (channels, half) = (self.bias.len(), self.size / 2);
        let width = out.len() / channels;
        for (x, out) in out.chunks_exact_mut(channels).enumerate() {
            out.copy_from_slice(&self.bias);
            for dy in 0..self.size {
                let from_y = (y + dy).wrapping_sub(half);
                if from_y >= height {
                    continue;
                }
                for dx in 0..self.size {
                    let from_x = (x + dx).wrapping_sub(half);
                    if from_x >= width {
                        continue;
                    }
                    let from = &picture[(from_y * width + from_x) * channels..][..channels];
                    let kernel = &self.kernel[(dy * self.size + dx) * channels..][..channels];
                    for k in 0..channels {
                        out[k] = from[k].mul_add(kernel[k], out[k]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn it_equals_candles_convolution() {
        for (size, picture) in [(7, [2, 9, 5, 12]), (3, [1, 4, 4, 40])] {
            let channels = picture[3];
            let tensors = [
                ("weight".to_owned(), random(&[channels, 1, size, size], 1)),
                ("bias".to_owned(), random(&[channels], 2)),
            ];
            let vb = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu);
            let conv = DepthwiseConv2d::load(vb, channels, size).unwrap();
            let x = random(&picture, 3);
            let kernel = conv.kernel.permute((2, 0, 1)).unwrap().unsqueeze(1).unwrap().contiguous().unwrap();
            let channels_first = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
            let expected = channels_first.conv2d(&kernel, size / 2, 1, 1, channels).unwrap();
            let expected = expected.permute((0, 2, 3, 1)).unwrap().broadcast_add(&conv.bias).unwrap();
            close(&conv.forward(&x).unwrap(), &expected, 1e-5);
            close(&conv.composed(&x).unwrap(), &expected, 1e-5);
        }
    }
}
