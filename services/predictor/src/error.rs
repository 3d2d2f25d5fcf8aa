//! Why the predictor does not start or does not go on.

use unprompt_stream::StreamError;

/// Errors of following heads.v1. A head that is refused is none: the one in use stays.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PredictorError {
    #[error("the predictor cannot read heads.v1: {0}")]
    Heads(String),
    #[error(transparent)]
    Stream(#[from] StreamError),
}
