//! What a service is to the runner: a plain synchronous type, tested without a broker.

use crate::{InputRecord, OutputRecord};

/// One step of the flow. It is built and runs on a thread of its own, so it may block and need not be `Sync`.
pub trait Stage: Send + 'static {
    /// Processes a batch: one outcome for each input, in the same order.
    ///
    /// # Errors
    ///
    /// An error concerns the whole batch, never one bad record: that is [`Outcome::Rejected`].
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError>;
}

/// What became of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The records it gave; none is an answer too.
    Outputs(Vec<OutputRecord>),
    /// It cannot be processed, now or ever; it goes to dead-letters.v1 as it was.
    Rejected(Rejection),
}

/// Why a record goes to dead-letters.v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A stable word to filter and count by, for example `truncated-image`.
    pub code: &'static str,
    /// What is wrong and what to do about it.
    pub reason: String,
}

impl Rejection {
    /// A rejection with a stable `code` and a `reason` that says what to do.
    pub fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// Why a whole batch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Something it depends on is away for now; the same batch is tried again, after a growing delay.
    Transient(String),
    /// It cannot go on; the run ends, and nothing of the batch is committed.
    Fatal(String),
}
