//! Rotary positions of a grid (Su et al., 2021; in two dimensions as in timm's RotaryEmbeddingCat):
//! some pairs of a head's values are rotated by angles that grow with the row, others by angles
//! that grow with the column.

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::buffers::floats;
use super::parameters::activations;

/// The sine and the cosine of every position's angles. The class token, which comes first, is not
/// rotated.
#[derive(Debug)]
pub(crate) struct Rotary {
    /// [positions, head_dim / 2]
    sines: Vec<f32>,
    cosines: Vec<f32>,
    head_dim: usize,
    /// The sines and cosines as tensors, if the network is not on the CPU.
    elsewhere: Option<(Tensor, Tensor)>,
}

const TEMPERATURE: f32 = 10_000.0;

impl Rotary {
    /// Computes the angles for a grid of `side` x `side`, with positions scaled to the grid
    /// `reference` [rows, columns].
    pub(crate) fn new(side: usize, reference: [usize; 2], head_dim: usize, vb: &VarBuilder) -> Result<Self> {
        let bands: Vec<f32> = (0..head_dim / 4)
            .map(|band| 1.0 / TEMPERATURE.powf(band as f32 / (head_dim / 4) as f32))
            .collect();
        let place = |at: usize, reference: usize| at as f32 / side as f32 * reference as f32;
        let angles: Vec<f32> = (0..side * side)
            .flat_map(|position| {
                let (row, column) =
                    (place(position / side, reference[0]), place(position % side, reference[1]));
                let of_row = bands.iter().map(move |band| row * band);
                of_row.chain(bands.iter().map(move |band| column * band)).collect::<Vec<_>>()
            })
            .collect();
        let (sines, cosines): (Vec<f32>, Vec<f32>) = angles.into_iter().map(f32::sin_cos).unzip();
        let elsewhere = match vb.device().is_cpu() {
            true => None,
            false => {
                let shape = (side * side, 1, head_dim / 2);
                let tensor = |values: &[f32]| -> Result<Tensor> {
                    Tensor::from_slice(values, shape, &Device::Cpu)?
                        .to_dtype(activations(vb))?
                        .to_device(vb.device())
                };
                Some((tensor(&sines)?, tensor(&cosines)?))
            }
        };
        Ok(Self { sines, cosines, head_dim, elsewhere })
    }

    /// Returns the factors [1 + positions, width] of the tokens' values, and the factors of the
    /// values that they are rotated with.
    #[cfg(feature = "onnx")]
    pub(crate) fn of_tokens(&self, width: usize) -> (Vec<f32>, Vec<f32>) {
        let spread = |angles: &[f32], class: f32, signs: [f32; 2]| -> Vec<f32> {
            let of_position = |of_head: &[f32]| {
                let of_head = of_head.iter().flat_map(|value| signs.map(|sign| sign * value));
                of_head.collect::<Vec<_>>().repeat(width / self.head_dim)
            };
            let patches = angles.chunks_exact(self.head_dim / 2).flat_map(of_position);
            std::iter::repeat_n(class, width).chain(patches).collect()
        };
        (spread(&self.cosines, 1.0, [1.0, 1.0]), spread(&self.sines, 0.0, [-1.0, 1.0]))
    }

    /// Rotates `x` [batch, 1 + positions, heads * head_dim].
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        match &self.elsewhere {
            None => x.contiguous()?.apply_op1_no_bwd(self),
            Some((sines, cosines)) => self.composed(x, sines, cosines),
        }
    }

    fn composed(&self, x: &Tensor, sines: &Tensor, cosines: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let patches = x.narrow(1, 1, tokens - 1)?;
        let pairs = patches.reshape((batch, tokens - 1, width / self.head_dim, self.head_dim / 2, 2))?;
        let part = |at| pairs.narrow(D::Minus1, at, 1)?.squeeze(D::Minus1);
        let (first, second) = (part(0)?, part(1)?);
        let rotated = [
            (first.broadcast_mul(cosines)? - second.broadcast_mul(sines)?)?,
            (second.broadcast_mul(cosines)? + first.broadcast_mul(sines)?)?,
        ];
        let rotated = Tensor::stack(&rotated, D::Minus1)?.reshape((batch, tokens - 1, width))?;
        Tensor::cat(&[&x.narrow(1, 0, 1)?, &rotated], 1)
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, tokens, width) = layout.shape().dims3()?;
        let half = self.head_dim / 2;
        if (tokens - 1) * half != self.sines.len() || !width.is_multiple_of(self.head_dim) {
            candle_core::bail!("rotary positions of {} values for {:?}", self.sines.len(), layout.shape());
        }
        let mut out = floats(x, layout)?.to_vec();
        out.par_chunks_mut(width).enumerate().filter(|(row, _)| row % tokens > 0).for_each(|(row, out)| {
            let of_position = (row % tokens - 1) * half..(row % tokens) * half;
            let (sines, cosines) = (&self.sines[of_position.clone()], &self.cosines[of_position]);
            for head in out.chunks_exact_mut(self.head_dim) {
                for (pair, (sine, cosine)) in head.chunks_exact_mut(2).zip(sines.iter().zip(cosines)) {
                    let (first, second) = (pair[0], pair[1]);
                    pair[0] = first * cosine - second * sine;
                    pair[1] = second * cosine + first * sine;
                }
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn it_equals_the_composed_formula_and_keeps_every_norm() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let rotary = Rotary::new(3, [16, 16], 8, &vb).unwrap();
        let x = random(&[2, 10, 24], 1);
        let tensor = |values: &[f32]| Tensor::from_slice(values, (9, 1, 4), &Device::Cpu).unwrap();
        let composed = rotary.composed(&x, &tensor(&rotary.sines), &tensor(&rotary.cosines)).unwrap();
        let rotated = rotary.rotate(&x).unwrap();
        close(&rotated, &composed, 1e-6);
        let norm = |x: &Tensor| x.sqr().unwrap().sum(2).unwrap();
        close(&norm(&rotated), &norm(&x), 1e-5);
        // The class token and the first patch, in row 0 and column 0, are unchanged.
        close(&rotated.narrow(1, 0, 2).unwrap(), &x.narrow(1, 0, 2).unwrap(), 0.0);
    }
}
