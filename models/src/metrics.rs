//! Metrics of predictions: cosine, its bootstrap interval, rank correlation and calibration error.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Returns the cosine similarity of two vectors of equal length; 0 if either is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len(), "cosine of vectors of different lengths");
    let (mut dot, mut aa, mut bb) = (0f64, 0f64, 0f64);
    for (&x, &y) in a.iter().zip(b) {
        dot += f64::from(x) * f64::from(y);
        aa += f64::from(x) * f64::from(x);
        bb += f64::from(y) * f64::from(y);
    }
    if aa == 0.0 || bb == 0.0 { 0.0 } else { (dot / (aa * bb).sqrt()).clamp(-1.0, 1.0) as f32 }
}

/// Scales `vector` to unit length; a zero vector stays zero.
pub fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

/// Returns the mean cosine of the pairs; 0 if there are none.
pub fn mean_cosine<A: AsRef<[f32]>, B: AsRef<[f32]>>(predicted: &[A], truth: &[B]) -> f64 {
    let total: f64 =
        predicted.iter().zip(truth).map(|(a, b)| f64::from(cosine(a.as_ref(), b.as_ref()))).sum();
    total / predicted.len().min(truth.len()).max(1) as f64
}

const RESAMPLES: usize = 2000;

/// Returns the 95 % percentile-bootstrap interval of the mean of `values`. The same seed gives the
/// same interval.
pub fn bootstrap_interval(values: &[f64], seed: u64) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            (0..values.len()).map(|_| values[rng.random_range(0..values.len())]).sum::<f64>()
                / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    (at(0.025), at(0.975))
}

/// Returns Spearman's rank correlation. Ties get their mean rank. Returns 0 if either side is
/// constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let covariance: f64 = a.iter().zip(b).map(|(x, y)| (x - mean_a) * (y - mean_b)).sum();
    let spread = |values: &[f64], mean: f64| values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let scale = (spread(a, mean_a) * spread(b, mean_b)).sqrt();
    if scale == 0.0 { 0.0 } else { covariance / scale }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let start = order.iter().position(|i| *i == tied[0]).unwrap_or(0);
        let rank = start as f64 + (tied.len() - 1) as f64 / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
    }
    ranks
}

/// Returns the mean absolute difference between expected and reached values.
pub fn mean_abs_error(expected: &[f64], reached: &[f64]) -> f64 {
    expected.iter().zip(reached).map(|(e, r)| (e - r).abs()).sum::<f64>() / expected.len().max(1) as f64
}

/// Returns the expected calibration error (Naeini et al., 2015) over `bins` bins of equal count:
/// the mean over the bins of |mean expected - mean reached|, weighted by their sizes.
pub fn calibration_error(expected: &[f64], reached: &[f64], bins: usize) -> f64 {
    let mut order: Vec<usize> = (0..expected.len().min(reached.len())).collect();
    if order.is_empty() {
        return 0.0;
    }
    order.sort_by(|&i, &j| expected[i].total_cmp(&expected[j]));
    let size = order.len().div_ceil(bins.max(1));
    let gap = |bin: &[usize]| bin.iter().map(|&i| expected[i] - reached[i]).sum::<f64>().abs();
    order.chunks(size).map(gap).sum::<f64>() / order.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_has_known_values() {
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[1.0, 1.0], &[-2.0, -2.0]), -1.0);
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f32.sqrt()).abs() < 1e-6);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 1.0]), 0.0);
        let mean = mean_cosine(&[vec![1.0, 0.0], vec![1.0, 0.0]], &[vec![1.0, 0.0], vec![0.0, 1.0]]);
        assert_eq!(mean, 0.5);
    }

    #[test]
    fn the_interval_holds_the_mean_and_narrows_with_more_values() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10) / 10.0).collect();
        let (low, high) = bootstrap_interval(&values, 7);
        assert!(low < 0.45 && 0.45 < high, "{low} {high}");
        // The normal interval is 0.45 +- 1.96 * 0.2872 / 10.
        assert!((high - low - 2.0 * 1.96 * 0.02872).abs() < 0.01, "{low} {high}");
        assert_eq!(bootstrap_interval(&values, 7), (low, high));
        let many: Vec<f64> = values.iter().cycle().take(1600).copied().collect();
        let (low4, high4) = bootstrap_interval(&many, 7);
        assert!((high4 - low4) * 3.0 < high - low);
    }

    #[test]
    fn spearman_depends_on_order_only_and_averages_tied_ranks() {
        assert!((spearman(&[1.0, 2.0, 3.0], &[1.0, 8.0, 27.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        // scipy.stats.spearmanr([1, 2, 2, 3], [1, 3, 2, 4]) = 0.9486832980505138
        assert!(
            (spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 3.0, 2.0, 4.0]) - 0.948_683_298_050_513_8).abs() < 1e-12
        );
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }

    #[test]
    fn calibration_error_sees_bias_and_forgives_noise_within_a_bin() {
        let expected = [0.2, 0.2, 0.8, 0.8];
        assert!(calibration_error(&expected, &[0.1, 0.3, 0.7, 0.9], 2) < 1e-12);
        assert!((calibration_error(&expected, &[0.3, 0.3, 0.9, 0.9], 2) - 0.1).abs() < 1e-12);
        assert!((mean_abs_error(&expected, &[0.1, 0.3, 0.7, 0.9]) - 0.1).abs() < 1e-12);
    }
}
