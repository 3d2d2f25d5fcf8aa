//! The confidence of a prediction: the expected cosine, from evidence that is available at
//! prediction time.
//!
//! A ridge regression over five features is fitted on held-out predictions. Its own cross-fitted
//! (out-of-fold) forecasts then decide how much it is trusted: forecasts that do not help are
//! shrunk to the mean.

use nalgebra::{DMatrix, DVector};

use crate::ModelError;
use crate::metrics::cosine;

const FEATURES: usize = 5;
const FOLDS: usize = 5;
const STRENGTHS: [f64; 5] = [0.3, 3.0, 30.0, 300.0, 3000.0];
/// The layout version, which is the first stored value.
const LAYOUT: f64 = 1.0;
const VALUES: usize = 2 + 3 * FEATURES;

/// The features of a prediction that are available when it is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence([f64; FEATURES]);

impl Evidence {
    /// Computes the evidence from the neighbours' vector, the head's vector, the neighbours'
    /// similarities (best first) and their weights.
    pub fn new(knn: &[f32], head: &[f32], similarities: &[f32], weights: &[f32]) -> Self {
        let count = similarities.len().max(1) as f64;
        let best = similarities.iter().copied().fold(f32::MIN, f32::max).max(-1.0);
        let mean = similarities.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
        let total = weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        let agreement = f64::from(cosine(knn, head));
        Self([
            agreement,
            f64::from(best),
            f64::from(best) - mean,
            entropy(weights),
            concentration(weights, total),
        ])
    }
}

/// Returns the entropy of the weights relative to its maximum, 0 to 1.
fn entropy(weights: &[f32]) -> f64 {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    if weights.len() < 2 || total <= 0.0 {
        return 0.0;
    }
    let shares = weights.iter().map(|&w| f64::from(w) / total).filter(|share| *share > 0.0);
    shares.map(|share| -share * share.ln()).sum::<f64>() / (weights.len() as f64).ln()
}

/// Returns the largest weight's share.
fn concentration(weights: &[f32], total: f64) -> f64 {
    let largest = weights.iter().map(|&w| f64::from(w)).fold(0.0, f64::max);
    if total > 0.0 { largest / total } else { 0.0 }
}

/// A fitted forecast of the cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    intercept: f64,
    means: [f64; FEATURES],
    scales: [f64; FEATURES],
    coefficients: [f64; FEATURES],
}

impl Calibration {
    /// The minimum number of predictions for [`Calibration::fit`].
    pub const MIN_PREDICTIONS: usize = 2 * FOLDS;

    /// Fits the forecast on at least [`Self::MIN_PREDICTIONS`] held-out predictions and the cosines
    /// they reached.
    pub fn fit(evidence: &[Evidence], reached: &[f32]) -> Result<Self, ModelError> {
        if evidence.len() < Self::MIN_PREDICTIONS || evidence.len() != reached.len() {
            return Err(ModelError::TooFewSamples(format!(
                "a calibration needs at least {} predictions, each with its cosine; there are {} with {} cosines",
                Self::MIN_PREDICTIONS,
                evidence.len(),
                reached.len()
            )));
        }
        let samples: Vec<(Evidence, f64)> =
            evidence.iter().zip(reached).map(|(evidence, &cosine)| (*evidence, f64::from(cosine))).collect();
        let mut best: Option<(f64, f64, Vec<f64>)> = None;
        for strength in STRENGTHS {
            let forecasts = cross_fitted(&samples, strength)?;
            let error = forecasts.iter().zip(&samples).map(|(f, (_, r))| (f - r).powi(2)).sum::<f64>();
            if best.as_ref().is_none_or(|(least, _, _)| error < *least) {
                best = Some((error, strength, forecasts));
            }
        }
        let (_, strength, forecasts) = best.ok_or(ModelError::Singular(0.0))?;
        let whole = Self::ridge(&samples, strength)?;
        Ok(whole.shrunk(belief(&forecasts, &samples), mean(samples.iter().map(|(_, r)| *r))))
    }

    /// Fits a ridge regression on standardised evidence.
    fn ridge(samples: &[(Evidence, f64)], strength: f64) -> Result<Self, ModelError> {
        let column = |k: usize| samples.iter().map(move |(evidence, _)| evidence.0[k]);
        let means: [f64; FEATURES] = std::array::from_fn(|k| mean(column(k)));
        let scales: [f64; FEATURES] = std::array::from_fn(|k| {
            let deviation = mean(column(k).map(|x| (x - means[k]).powi(2))).sqrt();
            if deviation > 1e-9 { deviation } else { 1.0 }
        });
        let intercept = mean(samples.iter().map(|(_, r)| *r));
        let x = DMatrix::from_fn(samples.len(), FEATURES, |i, k| (samples[i].0.0[k] - means[k]) / scales[k]);
        let y = DVector::from_iterator(samples.len(), samples.iter().map(|(_, r)| r - intercept));
        let gram = x.tr_mul(&x) + DMatrix::identity(FEATURES, FEATURES) * strength;
        let solution = gram.cholesky().ok_or(ModelError::Singular(strength))?.solve(&x.tr_mul(&y));
        Ok(Self { intercept, means, scales, coefficients: std::array::from_fn(|k| solution[k]) })
    }

    /// Scales the forecast's deviation from the mean by `belief`.
    fn shrunk(mut self, belief: f64, mean: f64) -> Self {
        self.coefficients.iter_mut().for_each(|c| *c *= belief);
        self.intercept = mean;
        self
    }

    fn forecast(&self, evidence: &Evidence) -> f64 {
        let deviation: f64 = (0..FEATURES)
            .map(|k| self.coefficients[k] * (evidence.0[k] - self.means[k]) / self.scales[k])
            .sum();
        self.intercept + deviation
    }

    /// Returns the expected cosine, -1 to 1.
    pub fn expected_cosine(&self, evidence: &Evidence) -> f32 {
        self.forecast(evidence).clamp(-1.0, 1.0) as f32
    }

    /// Returns all values that [`Self::from_values`] needs.
    pub fn values(&self) -> Vec<f64> {
        [&[LAYOUT, self.intercept][..], &self.means, &self.scales, &self.coefficients].concat()
    }

    /// The inverse of [`Calibration::values`].
    pub fn from_values(values: &[f64]) -> Result<Self, ModelError> {
        if values.len() != VALUES || values[0] != LAYOUT || values.iter().any(|value| !value.is_finite()) {
            return Err(ModelError::Calibration(format!(
                "{VALUES} finite values of layout {LAYOUT} are expected"
            )));
        }
        let part = |n: usize| std::array::from_fn(|k| values[2 + n * FEATURES + k]);
        Ok(Self { intercept: values[1], means: part(0), scales: part(1), coefficients: part(2) })
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    values.for_each(|value| (sum, count) = (sum + value, count + 1));
    sum / count.max(1) as f64
}

/// Returns each sample's forecast by a model that was fitted without it.
fn cross_fitted(samples: &[(Evidence, f64)], strength: f64) -> Result<Vec<f64>, ModelError> {
    let mut forecasts = vec![0.0; samples.len()];
    for fold in 0..FOLDS {
        let others: Vec<_> = samples
            .iter()
            .enumerate()
            .filter(|(i, _)| i % FOLDS != fold)
            .map(|(_, sample)| *sample)
            .collect();
        let model = Calibration::ridge(&others, strength)?;
        for i in (fold..samples.len()).step_by(FOLDS) {
            forecasts[i] = model.forecast(&samples[i].0);
        }
    }
    Ok(forecasts)
}

/// Returns the slope of the reached cosines against the cross-fitted forecasts, clamped to 0 to 1.
fn belief(forecasts: &[f64], samples: &[(Evidence, f64)]) -> f64 {
    let (centre, level) = (mean(forecasts.iter().copied()), mean(samples.iter().map(|(_, r)| *r)));
    let covariance: f64 = forecasts.iter().zip(samples).map(|(f, (_, r))| (f - centre) * (r - level)).sum();
    let spread: f64 = forecasts.iter().map(|f| (f - centre).powi(2)).sum();
    if spread > 1e-12 { (covariance / spread).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::metrics::{mean_abs_error, spearman};

    fn random_evidence(rng: &mut ChaCha8Rng) -> Evidence {
        Evidence(std::array::from_fn(|_| rng.random::<f64>()))
    }

    #[test]
    fn evidence_features_have_known_values() {
        let evidence = Evidence::new(&[1.0, 0.0], &[0.0, 1.0], &[0.8, 0.4], &[0.5, 0.5]);
        let expected = [0.0, 0.8, 0.2, 1.0, 0.5];
        evidence.0.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{evidence:?}"));
        assert!(Evidence::new(&[], &[], &[], &[]).0.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn a_real_relation_is_learned() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let evidence: Vec<_> = (0..400).map(|_| random_evidence(&mut rng)).collect();
        let reached: Vec<f32> = evidence.iter().map(|e| (0.3 + 0.4 * e.0[0] - 0.2 * e.0[1]) as f32).collect();
        let calibration = Calibration::fit(&evidence[..200], &reached[..200]).unwrap();
        let expected: Vec<f64> =
            evidence[200..].iter().map(|e| f64::from(calibration.expected_cosine(e))).collect();
        let reached: Vec<f64> = reached[200..].iter().map(|&r| f64::from(r)).collect();
        assert!(spearman(&expected, &reached) > 0.99);
        assert!(mean_abs_error(&expected, &reached) < 0.01);
    }

    #[test]
    fn a_calibration_fitted_on_noise_predicts_the_mean() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let evidence: Vec<_> = (0..60).map(|_| random_evidence(&mut rng)).collect();
        let reached: Vec<f32> = (0..60).map(|_| 0.6 + 0.2 * rng.random::<f32>()).collect();
        let calibration = Calibration::fit(&evidence, &reached).unwrap();
        for _ in 0..100 {
            let expected = calibration.expected_cosine(&random_evidence(&mut rng));
            assert!((expected - 0.7).abs() < 0.03, "{expected}");
        }
    }

    #[test]
    fn a_calibration_round_trips_and_invalid_values_are_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let evidence: Vec<_> = (0..40).map(|_| random_evidence(&mut rng)).collect();
        let reached: Vec<f32> = evidence.iter().map(|e| e.0[2] as f32).collect();
        let calibration = Calibration::fit(&evidence, &reached).unwrap();
        assert_eq!(Calibration::from_values(&calibration.values()).unwrap(), calibration);
        assert!(Calibration::from_values(&[]).is_err());
        assert!(Calibration::from_values(&[f64::NAN; VALUES]).is_err());
        assert!(Calibration::fit(&evidence[..9], &reached[..9]).is_err());
    }

    #[test]
    fn the_expected_cosine_is_clamped_for_extreme_evidence() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let evidence: Vec<_> = (0..40).map(|_| random_evidence(&mut rng)).collect();
        let reached: Vec<f32> = evidence.iter().map(|e| e.0[2] as f32).collect();
        let calibration = Calibration::fit(&evidence, &reached).unwrap();
        assert_eq!(calibration.expected_cosine(&Evidence([1e6; FEATURES])), 1.0);
    }
}
