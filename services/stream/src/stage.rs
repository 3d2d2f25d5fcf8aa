//! The interface between a service and the runner: a plain synchronous type, tested without a
//! broker.

use crate::{InputRecord, OutputRecord};

/// A step of the flow. It is built and runs on a thread of its own, so it may block and
/// need not be `Sync`.
pub trait Stage: Send + 'static {
    /// Processes a batch: one outcome for each input, in the same order.
    ///
    /// A stage whose work takes long may return the outcomes of the first inputs only, of one at
    /// least. These are written and committed, and it is called again with the other inputs.
    ///
    /// An input on which it panics becomes a dead letter; its neighbours are processed one by one.
    ///
    /// # Errors
    ///
    /// An error concerns the whole batch. A single bad record is an [`Outcome::Rejected`] instead.
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError>;
}

/// The outcome of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The records that follow from it; there may be none.
    Outputs(Vec<OutputRecord>),
    /// It can never be processed; it goes to dead-letters.v1 unchanged.
    Rejected(Rejection),
}

/// Why a record goes to dead-letters.v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A stable word to filter and count by, for example `truncated-image`.
    pub code: &'static str,
    /// The fault and its remedy.
    pub reason: String,
}

impl Rejection {
    /// Makes a rejection with a stable `code` and a `reason` that says what to do.
    pub fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// Why a whole batch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// A dependency is temporarily away; the batch is retried after a growing delay.
    Transient(String),
    /// The stage cannot continue; the run ends, and nothing of the batch is committed.
    Fatal(String),
}
