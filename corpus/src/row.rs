//! A prompt of a file. It knows nothing of files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A prompt with the other values of its row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub text: String,
    pub source: String,
    pub seeds: Vec<i64>,
    pub attributes: BTreeMap<String, String>,
    pub created_at_ms: Option<i64>,
    pub scores: Scores,
}

/// A data set's scores of a pair of picture and text; none if it has no such score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// CLIP's cosine similarity of picture and text.
    pub similarity: Option<f64>,
    /// The score of LAION's aesthetic predictor, about 1 to 10.
    pub aesthetic: Option<f64>,
    /// The highest NSFW score given, 0 to 1 (2 if Stable Diffusion's own filter blurred the
    /// picture).
    pub nsfw: Option<f64>,
}

/// The reason why a row could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadRow {
    NotUtf8,
    /// Longer than [`MAX_ROW_BYTES`](crate::MAX_ROW_BYTES).
    Oversized,
    NotJson,
    /// The number of fields differs from the header's.
    FieldCount,
    /// The text column has no text.
    NoText,
    /// A caption that the data set itself rejects (VizWiz: is_rejected, is_precanned).
    Rejected,
}
