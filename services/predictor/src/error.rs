//! Why the predictor fails to start or to continue.

use unprompt_stream::StreamError;

/// Errors of following heads.v1. A refused head is not an error: the one in use stays.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PredictorError {
    #[error("the predictor cannot read heads.v1: {0}")]
    Heads(String),
    #[error(transparent)]
    Stream(#[from] StreamError),
}
