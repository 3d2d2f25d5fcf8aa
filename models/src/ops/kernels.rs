//! The inner loops of the networks, on plain slices. `dispatch` compiles each for the processor's
//! widest vectors. The approximations are accurate to about f32: exp to 2e-7 relative, erf to 2e-7
//! absolute.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// Computes e^x, vectorisable; saturates outside -87..88 and keeps NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer whose low bits are the exponent (Cephes' expf).
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
        + 0.166_666_66)
        * r
        + 0.5;
    (p * r * r + r + 1.0) * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// The error function (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    (1.0 - p * exp(-z * z)).copysign(x)
}

#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
pub(super) fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    // 0.5 (1 + tanh y) = 1 / (1 + exp(-2y))
    let y = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * y))
}

/// A wrapper that calls a closure by reference, so that its body is inlined. A consumed closure is
/// called through a shim, which may not be inlined.
struct Inlined<F>(F);

impl<F: FnMut() -> R, R> pulp::NullaryFnOnce for Inlined<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}

/// Runs `work` compiled for the widest vectors of this processor. `work` and all its callees must
/// be `#[inline(always)]`: a separate function is compiled for the baseline processor, where every
/// `mul_add` is a call. Therefore inner loops are `for` loops: the closure of a `for_each` may be a
/// separate function.
pub(super) fn dispatch<R>(work: impl FnMut() -> R) -> R {
    let work = Inlined(work);
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(avx512) = pulp::x86::V4::try_new() {
            return avx512.vectorize(work);
        }
        if let Some(avx2) = pulp::x86::V3::try_new() {
            return avx2.vectorize(work);
        }
    }
    pulp::Arch::new().dispatch(work)
}

/// Computes `activation(x + bias)` in place. The rows of `x` have `bias.len()` values.
#[inline(always)]
pub(super) fn add_bias(x: &mut [f32], bias: &[f32], activation: impl Fn(f32) -> f32) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x = activation(*x + b);
        }
    }
}

/// Computes (a + bias_a) * gelu(g + bias_g) for rows [a, g].
#[inline(always)]
pub(super) fn geglu(x: &[f32], bias: &[f32], out: &mut [f32]) {
    let width = bias.len() / 2;
    let (bias_a, bias_g) = bias.split_at(width);
    for (row, out) in x.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (a, g) = row.split_at(width);
        for k in 0..width {
            out[k] = (a[k] + bias_a[k]) * gelu(g[k] + bias_g[k]);
        }
    }
}

/// Group normalisation of one picture.
pub(super) struct GroupNorm<'a> {
    pub groups: usize,
    pub eps: f32,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    /// Added to every position before the normalisation.
    pub shift: Option<&'a [f32]>,
}

impl GroupNorm<'_> {
    /// `x` and `out`: [positions, channels].
    #[inline(always)]
    pub(super) fn run(&self, x: &[f32], out: &mut [f32], activation: impl Fn(f32) -> f32) {
        let (scale, offset) = self.affine(x);
        for (row, out) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
            for k in 0..scale.len() {
                out[k] = activation(row[k] * scale[k] + offset[k]);
            }
        }
    }

    /// Returns the normalisation as one multiplication and one addition per channel.
    #[inline(always)]
    fn affine(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (channels, positions) = (self.weight.len(), x.len() / self.weight.len());
        let (mean, variance) = self.moments(x);
        let size = channels / self.groups;
        let (mut scale, mut offset) = (vec![0f32; channels], vec![0f32; channels]);
        for group in 0..self.groups {
            let of_group = group * size..(group + 1) * size;
            let centre = mean[of_group.clone()].iter().sum::<f32>() / size as f32;
            let spread: f32 =
                of_group.clone().map(|k| variance[k] / positions as f32 + (mean[k] - centre).powi(2)).sum();
            let inverse = 1.0 / (spread / size as f32 + self.eps).sqrt();
            for k in of_group {
                scale[k] = self.weight[k] * inverse;
                offset[k] = self.bias[k] + (self.shift.map_or(0.0, |shift| shift[k]) - centre) * scale[k];
            }
        }
        (scale, offset)
    }

    /// Returns each channel's mean (with its shift) and sum of squared deviations.
    #[inline(always)]
    fn moments(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let channels = self.weight.len();
        let positions = (x.len() / channels) as f32;
        let (mut mean, mut square) = (vec![0f32; channels], vec![0f32; channels]);
        for row in x.chunks_exact(channels) {
            for (sum, x) in mean.iter_mut().zip(row) {
                *sum += x;
            }
        }
        mean.iter_mut().for_each(|sum| *sum /= positions);
        for row in x.chunks_exact(channels) {
            for k in 0..channels {
                square[k] += (row[k] - mean[k]) * (row[k] - mean[k]);
            }
        }
        if let Some(shift) = self.shift {
            mean.iter_mut().zip(shift).for_each(|(mean, shift)| *mean += shift);
        }
        (mean, square)
    }
}

/// A sliding window over a picture [height, width, channels].
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub size: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Window {
    pub(super) fn out(&self) -> (usize, usize) {
        let out = |length: usize| (length + 2 * self.padding - self.size) / self.stride + 1;
        (out(self.height), out(self.width))
    }

    /// Writes the patch under output position (`row`, `column`) as [size, size, channels]; zero
    /// outside the picture.
    #[inline(always)]
    pub(super) fn patch(&self, picture: &[f32], row: usize, column: usize, out: &mut [f32]) {
        let line = self.size * self.channels;
        for (dy, out) in out.chunks_exact_mut(line).enumerate() {
            let y = (row * self.stride + dy).wrapping_sub(self.padding);
            if y >= self.height {
                out.fill(0.0);
                continue;
            }
            for (dx, out) in out.chunks_exact_mut(self.channels).enumerate() {
                let x = (column * self.stride + dx).wrapping_sub(self.padding);
                if x >= self.width {
                    out.fill(0.0);
                } else {
                    let from = (y * self.width + x) * self.channels;
                    out.copy_from_slice(&picture[from..from + self.channels]);
                }
            }
        }
    }
}

/// The number of lanes of sums and maxima, so that they are vectorised.
const LANES: usize = 32;

/// Replaces each x by e^(x - the highest x) and returns their sum: a softmax before its division by
/// the sum. The sum is NaN if any x is NaN.
#[inline(always)]
pub(super) fn exponentials(x: &mut [f32]) -> f32 {
    let highest = highest(x);
    let mut sums = [0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for j in 0..LANES {
            chunk[j] = exp(chunk[j] - highest);
            sums[j] += chunk[j];
        }
    }
    let mut total = 0.0;
    for sum in sums {
        total += sum;
    }
    for x in rest {
        *x = exp(*x - highest);
        total += *x;
    }
    total
}

#[inline(always)]
fn highest(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::MIN; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] = if chunk[j] > lanes[j] { chunk[j] } else { lanes[j] };
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::MIN, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approximations_are_good_to_f32() {
        for i in -8000..8000 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - exact) / exact).abs() < 2e-7, "exp({x})");
            let sigmoid = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(silu(x)) - sigmoid).abs() < 4e-6, "silu({x})");
        }
        // scipy.special.erf
        for (x, exact) in
            [(0.0, 0.0), (0.5, 0.520_499_9), (-1.0, -0.842_700_8), (2.0, 0.995_322_3), (5.0, 1.0)]
        {
            assert!((erf(x) - exact).abs() < 3e-7, "erf({x}) = {}", erf(x));
        }
    }

    #[test]
    fn exponentials_are_a_softmax_before_its_division() {
        for length in [1, 31, 32, 77, 200] {
            let x: Vec<f32> = (0..length).map(|at| (at as f32 * 7.3).sin() * 40.0).collect();
            let highest = x.iter().copied().fold(f32::MIN, f32::max);
            let exact: Vec<f64> = x.iter().map(|x| f64::from(x - highest).exp()).collect();
            let mut got = x.clone();
            let total = f64::from(exponentials(&mut got));
            assert!((total / exact.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{length}");
            assert!(
                got.iter().zip(&exact).all(|(got, exact)| (f64::from(*got) - exact).abs() < 1e-6),
                "{length}"
            );
        }
        assert!(exponentials(&mut [0.0, f32::NAN]).is_nan());
    }

    #[test]
    fn nan_and_infinity_propagate_through_activations() {
        assert!(exp(f32::NAN).is_nan() && silu(f32::NAN).is_nan() && gelu(f32::NAN).is_nan());
        assert!(silu(f32::INFINITY).is_infinite());
    }
}
