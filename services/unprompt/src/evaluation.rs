//! Scores predictions against the true prompts, with intervals, for `evaluate` and the demo alike.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;
use unprompt_models::metrics::{bootstrap_interval, calibration_error, cosine, mean_abs_error, spearman};
use unprompt_schemas::records::Prediction;

use crate::output;

/// Seed of the bootstrap, so that the same predictions give the same interval.
pub const BOOTSTRAP_SEED: u64 = 20_230_516;

/// Groups of pictures that calibration is judged on.
const CALIBRATION_BINS: usize = 10;

/// A prediction beside the MiniLM vector of the prompt that made the picture, [384].
#[derive(Debug)]
pub struct Scored {
    pub prediction: Prediction,
    /// The prompt that made the picture.
    pub text: String,
    pub truth: Vec<f32>,
}

/// Mean cosine to the true prompt for each way to predict, with its 95 % bootstrap interval.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    pub pictures: usize,
    pub mean_cosine: BTreeMap<&'static str, f64>,
    pub interval: BTreeMap<&'static str, [f64; 2]>,
    pub calibration: Option<Calibrated>,
}

/// How far expected_cosine is from the cosine reached.
#[derive(Clone, Debug, Serialize)]
pub struct Calibrated {
    /// Expected calibration error: the pictures sorted by expected_cosine and cut into tenths, the mean over the tenths
    /// of |mean expected − mean reached|.
    pub mean_abs_error: f64,
    /// Mean over the single pictures of |expected − reached|: how sharp the expectation is.
    pub mean_abs_error_per_picture: f64,
    /// Spearman's rank correlation of expected and reached.
    pub rank_correlation: f64,
    /// |mean expected − mean reached|.
    pub bias: f64,
}

/// The ways to predict, in the order they are shown.
const WAYS: [(&str, &str); 4] = [
    ("mean_prompt", "the mean of all prompts, whatever the picture"),
    ("knn", "the nearest prompts, weighted"),
    ("head", "the ridge head"),
    ("blend", "both, as learned on validation"),
];

impl Scores {
    /// Scores each way that every prediction has; `mean_prompt` is left out where it is not known.
    pub fn of(scored: &[Scored], mean_prompt: Option<&[f32]>) -> Self {
        let mut scores = Self {
            pictures: scored.len(),
            mean_cosine: BTreeMap::new(),
            interval: BTreeMap::new(),
            calibration: None,
        };
        for (way, _) in WAYS {
            if let Some(cosines) = cosines(scored, way, mean_prompt) {
                let (low, high) = bootstrap_interval(&cosines, BOOTSTRAP_SEED);
                scores.mean_cosine.insert(way, mean(&cosines));
                scores.interval.insert(way, [low, high]);
            }
        }
        scores.calibration = calibrated(scored);
        scores
    }

    /// The table people read.
    pub fn table(&self) -> Table {
        let mut table = output::table(["prediction by", "mean cosine", "95 % interval", ""]);
        for (way, what) in WAYS {
            if let (Some(mean), Some([low, high])) = (self.mean_cosine.get(way), self.interval.get(way)) {
                table.add_row([way, &format!("{mean:.4}"), &format!("{low:.4} to {high:.4}"), what]);
            }
        }
        table
    }
}

/// The cosine of every prediction made this way, or nothing where one lacks that part.
fn cosines(scored: &[Scored], way: &str, mean_prompt: Option<&[f32]>) -> Option<Vec<f64>> {
    let part = |one: &Scored| {
        let vector = match way {
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

fn calibrated(scored: &[Scored]) -> Option<Calibrated> {
    let expected: Option<Vec<f64>> =
        scored.iter().map(|one| one.prediction.expected_cosine.map(f64::from)).collect();
    let expected = expected.filter(|expected| !expected.is_empty())?;
    let reached = cosines(scored, "blend", None)?;
    Some(Calibrated {
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
    use super::*;

    fn scored(vector: [f32; 2], truth: [f32; 2], expected: f32) -> Scored {
        let prediction = Prediction {
            vector: vector.to_vec(),
            knn_vector: Some(vector.to_vec()),
            expected_cosine: Some(expected),
            ..crate::testing::prediction()
        };
        Scored { prediction, text: "a red star".into(), truth: truth.to_vec() }
    }

    #[test]
    fn a_way_that_one_prediction_lacks_is_not_scored() {
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
