//! A prompt as it stands in a file. It knows nothing of files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A prompt with what its file says about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub text: String,
    pub source: String,
    pub seeds: Vec<i64>,
    pub attributes: BTreeMap<String, String>,
    pub created_at_ms: Option<i64>,
    pub scores: Scores,
}

/// What data sets say about the quality of a pair of picture and text; none where they say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// CLIP's cosine of picture and text.
    pub similarity: Option<f64>,
    /// LAION's predictor, about 1 to 10.
    pub aesthetic: Option<f64>,
    /// The highest of those given, 0 to 1 (2 where Stable Diffusion's own filter blurred the picture).
    pub nsfw: Option<f64>,
}

/// Why a row could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadRow {
    NotUtf8,
    /// Longer than [`MAX_ROW_BYTES`](crate::MAX_ROW_BYTES).
    Oversized,
    NotJson,
    /// Another number of fields than the header has.
    FieldCount,
    /// No text where the text should be.
    NoText,
    /// An annotator's caption that the data set itself rejects (VizWiz: is_rejected, is_precanned).
    Rejected,
}
