//! Two-dimensional convolution, channels last. On the CPU, blocks of patches are laid out as rows
//! (im2col) and multiplied by the kernel.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::buffers::{floats, rows_per_task, with_buffer};
use super::kernels::Window;
use super::linear::Linear;
use super::parameters::{bias, reshaped};

/// A square convolution over [batch, height, width, channels].
#[derive(Debug, Clone)]
pub(crate) struct Conv2d {
    kernel: Kernel,
    inputs: usize,
    outputs: usize,
    size: usize,
    stride: usize,
    padding: usize,
}

#[derive(Debug, Clone)]
enum Kernel {
    /// On the CPU: a linear layer from a patch [size * size * in] to [out], with the bias.
    Product(Linear),
    /// On other devices: [out, in, size, size] and the bias [out].
    Whole(Tensor, Tensor),
}

impl Conv2d {
    /// Loads `weight` [out, in, size, size] and `bias` [out], if there is one.
    pub(crate) fn load(
        vb: VarBuilder,
        inputs: usize,
        outputs: usize,
        shape: (usize, usize, usize),
    ) -> Result<Self> {
        let (size, stride, padding) = shape;
        let weight = vb.get((outputs, inputs, size, size), "weight")?;
        let (bias, patch) = (bias(&vb, outputs)?, size * size * inputs);
        let kernel = if weight.device().is_cpu() {
            let rows = reshaped(&weight.permute((0, 2, 3, 1))?, (outputs, patch))?;
            Kernel::Product(Linear::from_rows(&rows, bias)?)
        } else {
            Kernel::Whole(weight.contiguous()?, bias)
        };
        Ok(Self { kernel, inputs, outputs, size, stride, padding })
    }

    /// Loads a 3x3 convolution with padding 1.
    pub(crate) fn three(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        Self::load(vb, inputs, outputs, (3, 1, 1))
    }

    pub(crate) fn bias(&self) -> &Tensor {
        match &self.kernel {
            Kernel::Product(product) => product.bias(),
            Kernel::Whole(_, bias) => bias,
        }
    }

    /// Maps [b, h, w, in] to [b, h', w', out].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.kernel {
            Kernel::Product(product) => self.run(product, x, true),
            Kernel::Whole(kernel, bias) => self.composed(kernel, x)?.broadcast_add(bias),
        }
    }

    /// The convolution without its bias.
    pub(crate) fn without_bias(&self, x: &Tensor) -> Result<Tensor> {
        match &self.kernel {
            Kernel::Product(product) => self.run(product, x, false),
            Kernel::Whole(kernel, _) => self.composed(kernel, x),
        }
    }

    fn run(&self, product: &Linear, x: &Tensor, bias: bool) -> Result<Tensor> {
        let (_, height, width, channels) = x.dims4()?;
        if channels != self.inputs {
            candle_core::bail!("a convolution of {} channels was given {channels}", self.inputs);
        }
        let (size, stride, padding) = (self.size, self.stride, self.padding);
        let window = Window { height, width, channels, size, stride, padding };
        x.contiguous()?.apply_op1_no_bwd(&Op { product, outputs: self.outputs, window, bias })
    }

    fn composed(&self, kernel: &Tensor, x: &Tensor) -> Result<Tensor> {
        let channels_first = x.permute((0, 3, 1, 2))?.contiguous()?;
        channels_first.conv2d(kernel, self.padding, self.stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()
    }
}

struct Op<'a> {
    product: &'a Linear,
    outputs: usize,
    window: Window,
    bias: bool,
}

impl CustomOp1 for Op<'_> {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (values, outputs) = (floats(x, x_l)?, self.outputs);
        let (batch, ..) = x_l.shape().dims4()?;
        let (height, width) = self.window.out();
        let positions = batch * height * width;
        let rows = rows_per_task(positions);
        let mut out = vec![0f32; positions * outputs];
        let tasks = out.par_chunks_mut(rows * outputs).enumerate();
        tasks.try_for_each(|(task, out)| self.positions(values, task * rows, out))?;
        Ok((CpuStorage::F32(out), (batch, height, width, outputs).into()))
    }
}

impl Op<'_> {
    /// Computes as many output positions from `first` on as fit in `out`. Their patches stay in the
    /// cache.
    fn positions(&self, values: &[f32], first: usize, out: &mut [f32]) -> Result<()> {
        let Window { height, width, channels, size, .. } = self.window;
        let (picture, patch) = (height * width * channels, size * size * channels);
        let (out_height, out_width) = self.window.out();
        let count = out.len() / self.outputs;
        with_buffer(count * patch, |patches| {
            for (k, patch) in patches.chunks_exact_mut(patch).enumerate() {
                let (of, place) =
                    ((first + k) / (out_height * out_width), (first + k) % (out_height * out_width));
                let picture = &values[of * picture..][..picture];
                self.window.patch(picture, place / out_width, place % out_width, patch);
            }
            self.product.write(patches, self.bias, out)
        })
    }
}

/// Enlarges by nearest neighbours to `height` x `width`, like torch's
/// `interpolate(mode="nearest")`.
pub(crate) fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, from_height, from_width, channels) = x.dims4()?;
    if height == 2 * from_height && width == 2 * from_width {
        let spread = x.contiguous()?.reshape((batch, from_height, 1, from_width, 1, channels))?;
        let spread = spread.broadcast_as((batch, from_height, 2, from_width, 2, channels))?;
        return spread.contiguous()?.reshape((batch, height, width, channels));
    }
    let index = |from: usize, to: usize| {
        let index: Vec<u32> = (0..to).map(|i| (i * from / to) as u32).collect();
        Tensor::from_vec(index, to, x.device())
    };
    x.index_select(&index(from_height, height)?, 1)?.index_select(&index(from_width, width)?, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    /// A convolution, and its kernel in candle's layout.
    fn conv(inputs: usize, outputs: usize, shape: (usize, usize, usize)) -> (Conv2d, Tensor) {
        let size = shape.0;
        let tensors = [
            ("weight".to_owned(), random(&[outputs, inputs, size, size], 1)),
            ("bias".to_owned(), random(&[outputs], 2)),
        ];
        let vb = VarBuilder::from_tensors(
            tensors.into_iter().collect(),
            candle_core::DType::F32,
            &candle_core::Device::Cpu,
        );
        let kernel = vb.get((outputs, inputs, size, size), "weight").unwrap();
        (Conv2d::load(vb, inputs, outputs, shape).unwrap(), kernel)
    }

    #[test]
    fn it_equals_candles_convolution() {
        for (shape, picture) in
            [((3, 1, 1), [3, 8, 7, 5]), ((3, 2, 1), [2, 9, 6, 5]), ((4, 4, 0), [1, 8, 12, 5])]
        {
            let ((conv, kernel), x) = (conv(5, 11, shape), random(&picture, 3));
            let expected = conv.composed(&kernel, &x).unwrap().broadcast_add(conv.bias()).unwrap();
            close(&conv.forward(&x).unwrap(), &expected, 1e-5);
        }
    }

    #[test]
    fn a_batch_larger_than_a_task_is_convolved_correctly() {
        let ((conv, kernel), x) = (conv(16, 4, (3, 1, 1)), random(&[9, 16, 16, 16], 4));
        let expected = conv.composed(&kernel, &x).unwrap();
        close(&conv.without_bias(&x).unwrap(), &expected, 1e-5);
    }

    #[test]
    fn nearest_repeats_pixels() {
        let x = Tensor::new(&[[[[1f32], [2.0]], [[3.0], [4.0]]]], &candle_core::Device::Cpu).unwrap();
        let big = upsample_nearest(&x, 4, 4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(big, [1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.]);
        let odd = upsample_nearest(&x, 3, 3).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(odd, [1., 1., 2., 1., 1., 2., 3., 3., 4.]);
    }
}
