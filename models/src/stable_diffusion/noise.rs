//! The initial noise of a picture, and the noise that some schedulers add. It depends only on the
//! seed and the size: ChaCha20 seeded with the seed, two uniform numbers of 53 bits for each pair
//! of values, the Box-Muller transform, in the order channel, row, column (diffusers' layout). The
//! noise of a step continues the sequence.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// The noise generator of a picture.
#[derive(Debug)]
pub(super) struct Noise(ChaCha20Rng);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }

    /// Returns the next `count` standard normal values. If the count is odd, the second value of
    /// the last pair is discarded.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            // 1 - u is greater than 0 and at most 1, so its logarithm is finite.
            let radius = (-2.0 * (1.0 - uniform(&mut self.0)).ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * uniform(&mut self.0)).sin_cos();
            values.extend([(radius * cosine) as f32, (radius * sine) as f32]);
        }
        values.truncate(count);
        values
    }
}

fn uniform(rng: &mut ChaCha20Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(seed: u64, count: usize) -> Vec<f32> {
        Noise::new(seed).normal(count)
    }

    #[test]
    fn later_noise_differs_but_is_reproducible() {
        let (mut one, mut two) = (Noise::new(7), Noise::new(7));
        let first = one.normal(64);
        assert_eq!(first, two.normal(64));
        let second = one.normal(64);
        assert_ne!(first, second);
        assert_eq!(second, two.normal(64));
    }

    #[test]
    fn a_seed_determines_its_noise() {
        assert_eq!(normal(7, 64), normal(7, 64));
        assert_ne!(normal(7, 64), normal(8, 64));
        assert_eq!(normal(7, 63), normal(7, 64)[..63]);
    }

    #[test]
    fn noise_is_standard_normal() {
        let values = normal(1, 100_000);
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f32>() / 1e5;
        let beyond = values.iter().filter(|x| x.abs() > 1.96).count();
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!((4_700..5_300).contains(&beyond), "{beyond}");
    }
}
