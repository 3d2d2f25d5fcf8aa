//! The scores of predictions against the true prompts, with intervals and calibration.

use std::collections::BTreeMap;

use serde::Serialize;
use unprompt_models::metrics::{bootstrap_interval, calibration_error, cosine, mean_abs_error, spearman};
use unprompt_schemas::records::Prediction;

use super::BOOTSTRAP_SEED;

/// The groups of pictures that the calibration is measured on.
const CALIBRATION_BINS: usize = 10;

/// The methods of prediction that are scored, in display order.
pub const METHODS: [&str; 4] = ["mean_prompt", "knn", "head", "blend"];

/// A prediction with the true prompt of its picture.
#[derive(Debug)]
pub struct Scored {
    pub prediction: Prediction,
    /// The true prompt.
    pub text: String,
    /// The true prompt's MiniLM vector, \[384\].
    pub truth: Vec<f32>,
}

/// Mean cosine to the true prompt by each of [`METHODS`], with its 95 % bootstrap interval.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    pub pictures: usize,
    pub mean_cosine: BTreeMap<&'static str, f64>,
    pub interval: BTreeMap<&'static str, [f64; 2]>,
    pub calibration: Option<CalibrationScores>,
}

/// The distance of expected_cosine from the cosine reached.
#[derive(Clone, Debug, Serialize)]
pub struct CalibrationScores {
    /// Expected calibration error: sorts the pictures by expected_cosine, cuts them into tenths,
    /// and takes the mean over the tenths of |mean expected − mean reached|.
    pub mean_abs_error: f64,
    /// Mean over single pictures of |expected − reached|: the sharpness of the expectation.
    pub mean_abs_error_per_picture: f64,
    /// Spearman's rank correlation of expected and reached.
    pub rank_correlation: f64,
    /// |mean expected − mean reached|.
    pub bias: f64,
}

impl Scores {
    /// Scores each method that every prediction has; leaves `mean_prompt` out if it is unknown.
    pub fn of(scored: &[Scored], mean_prompt: Option<&[f32]>) -> Self {
        let mut scores = Self {
            pictures: scored.len(),
            mean_cosine: BTreeMap::new(),
            interval: BTreeMap::new(),
            calibration: calibration(scored),
        };
        for method in METHODS {
            if let Some(cosines) = cosines(scored, method, mean_prompt) {
                let (low, high) = bootstrap_interval(&cosines, BOOTSTRAP_SEED);
                scores.mean_cosine.insert(method, mean(&cosines));
                scores.interval.insert(method, [low, high]);
            }
        }
        scores
    }
}

/// Returns the cosine of every prediction by a method; None if one lacks that part.
fn cosines(scored: &[Scored], method: &str, mean_prompt: Option<&[f32]>) -> Option<Vec<f64>> {
    let part = |one: &Scored| {
        let vector = match method {
            "mean_prompt" => mean_prompt,
            "knn" => one.prediction.knn_vector.as_deref(),
            "head" => one.prediction.head_vector.as_deref(),
            _ => Some(one.prediction.vector.as_slice()),
        };
        vector.map(|vector| f64::from(cosine(vector, &one.truth)))
    };
    let cosines: Option<Vec<f64>> = scored.iter().map(part).collect();
    cosines.filter(|cosines| !cosines.is_empty())
}

fn calibration(scored: &[Scored]) -> Option<CalibrationScores> {
    let expected: Option<Vec<f64>> =
        scored.iter().map(|one| one.prediction.expected_cosine.map(f64::from)).collect();
    let expected = expected.filter(|expected| !expected.is_empty())?;
    let reached = cosines(scored, "blend", None)?;
    Some(CalibrationScores {
        mean_abs_error: calibration_error(&expected, &reached, CALIBRATION_BINS),
        mean_abs_error_per_picture: mean_abs_error(&expected, &reached),
        rank_correlation: spearman(&expected, &reached),
        bias: (mean(&expected) - mean(&reached)).abs(),
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use unprompt_schemas::Uuid;

    use super::*;

    fn scored(vector: [f32; 2], truth: [f32; 2], expected: f32) -> Scored {
        let prediction = Prediction {
            image_id: Uuid::nil(),
            source_key: None,
            source_topic: "images.v1".into(),
            source_partition: 0,
            source_offset: 0,
            vector: vector.to_vec(),
            knn_vector: Some(vector.to_vec()),
            head_vector: None,
            neighbours: Vec::new(),
            expected_cosine: Some(expected),
            encoder: "tiny@0".into(),
            head: None,
            index: "prompts-tiny-0".into(),
            blend: "linear-after-normalising".into(),
            created_at_ms: 0,
        };
        Scored { prediction, text: "a red star".into(), truth: truth.to_vec() }
    }

    #[test]
    fn a_method_that_one_prediction_lacks_is_not_scored() {
        let all = [scored([1.0, 0.0], [1.0, 0.0], 0.9), scored([0.0, 1.0], [1.0, 0.0], 0.1)];
        let scores = Scores::of(&all, Some(&[1.0, 0.0]));
        assert_eq!(scores.mean_cosine["blend"], 0.5);
        assert_eq!(scores.mean_cosine["mean_prompt"], 1.0);
        assert!(!scores.mean_cosine.contains_key("head"));
        let calibration = scores.calibration.unwrap();
        assert!((calibration.mean_abs_error - 0.1).abs() < 1e-6);
        assert!((calibration.rank_correlation - 1.0).abs() < 1e-9);
    }
}
