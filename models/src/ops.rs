//! The layers of the networks, channels last ([batch, height, width, channels]). On the CPU they
//! run our own fused, parallel kernels; on other devices the same formulas in candle's operations.

mod add;
mod attention;
mod buffers;
mod conv;
mod depthwise;
mod kernels;
mod linear;
mod matmul;
mod norm;
mod parameters;
mod rotary;

pub(crate) use add::add_in_place;
pub(crate) use attention::attention;
pub(crate) use conv::{Conv2d, upsample_nearest};
pub(crate) use depthwise::DepthwiseConv2d;
pub(crate) use linear::{Activation, GeGlu, Linear};
pub(crate) use norm::GroupNorm;
pub(crate) use parameters::{activations, layer_norm, parameter};
pub(crate) use rotary::Rotary;

#[cfg(test)]
pub(crate) mod testing {
    use candle_core::{Device, Tensor};
    use rand::{Rng, SeedableRng};

    /// Random values from -1 to 1, determined by the seed.
    pub fn random(shape: &[usize], seed: u64) -> Tensor {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub fn close(a: &Tensor, b: &Tensor, tolerance: f32) {
        assert_eq!(a.dims(), b.dims());
        let worst = (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(worst <= tolerance, "differs by {worst}");
    }
}
