//! Scores predictions, or the current index, against the true prompts.

mod predictions;
mod retrieval;
mod scores;
mod truth;

pub use predictions::{Evaluation, evaluate, read_predictions};
pub use retrieval::{RetrievalScores, score_retrieval};
pub use scores::{CalibrationScores, METHODS, Scored, Scores};
pub use truth::{Truth, TruthLine, read_truth};

/// The seed of the bootstrap, so that the same predictions give the same interval.
const BOOTSTRAP_SEED: u64 = 20_230_516;
