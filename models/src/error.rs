//! The crate's error type. Each message says what to do next.

use std::path::PathBuf;

/// Errors in loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{} is missing: {hint}", path.display())]
    Missing { path: PathBuf, hint: String },
    #[error("{} cannot be used: {reason}; replace the file with the one its model was published with", path.display())]
    Broken { path: PathBuf, reason: String },
    #[error("{} asks for {what}, which is not supported: choose a model without it", path.display())]
    Unsupported { path: PathBuf, what: String },
    #[error("there is no {what} {name:?}: choose {choices}")]
    UnknownName { what: &'static str, name: String, choices: String },
    #[error("ONNX Runtime cannot be used: {0}; run models/tools/fetch_minilm.sh or choose the candle engine")]
    OnnxRuntime(String),
    #[error("{what} holds 2 GiB of weights at most, not {bytes} bytes; choose the onnx or the candle engine")]
    GraphTooLarge { what: &'static str, bytes: usize },
    #[error(
        "{engine} computes wrong vectors here: their cosine to candle's is {cosine}, below the minimum of \
         {least}; choose another [models] engine, auto finds one"
    )]
    Deviates { engine: &'static str, cosine: f32, least: f32 },
    #[error("the text cannot be tokenized: {0}; check that the tokenizer belongs to the model")]
    Tokenizer(String),
    #[error("the network failed: {0}; this is a defect of the model folder or of the code, not of the input")]
    Network(#[from] candle_core::Error),
    #[error(
        "{what} has {got} dimensions where {expected} are expected: use files of the same model revision"
    )]
    Dimensions { what: &'static str, expected: usize, got: usize },
    #[error("{0}: give more samples")]
    TooFewSamples(String),
    #[error("the regression has no solution at strength {0}: choose a larger strength")]
    Singular(f64),
    #[error("the head cannot be read: {0}; train it again")]
    Head(String),
    #[error("the calibration cannot be read: {0}; train the head again")]
    Calibration(String),
    #[error("the request cannot be met: {0}")]
    Parameters(String),
}

impl ModelError {
    pub(crate) fn broken(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Broken { path: path.into(), reason: reason.to_string() }
    }

    /// Builds the error for a name that is not one of `choices`.
    pub(crate) fn unknown(what: &'static str, name: &str, choices: &[&str]) -> Self {
        let choices = match choices {
            [] => String::new(),
            [only] => (*only).to_owned(),
            [others @ .., last] => format!("{} or {last}", others.join(", ")),
        };
        Self::UnknownName { what, name: name.to_owned(), choices }
    }

    pub(crate) fn unsupported(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }
}
