//! `[predictor]`: how neighbours are found.

use serde::{Deserialize, Serialize};
use unprompt_index::MAX_LIMIT_WITH_VECTORS;
use unprompt_models::recipe::Retrieval;
use unprompt_stream::config::Invalid;

/// The search for neighbours, and the number of them that a prediction shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Neighbours that vote, 100 to 150 in the competition's recipe.
    pub k: usize,
    /// The space that is searched for them.
    pub retrieval: Retrieval,
    /// Neighbours written into the prediction, the first of the `k`.
    pub neighbours: usize,
}

impl Settings {
    /// Finds a value that cannot be used.
    ///
    /// # Errors
    /// The key, and what it may be.
    pub fn check(&self) -> Result<(), Invalid> {
        let (most, allowed) = (MAX_LIMIT_WITH_VECTORS, format!("1 to {MAX_LIMIT_WITH_VECTORS}"));
        Invalid::unless_in("predictor.k", self.k, 1..=most, &allowed)?;
        Invalid::unless_in("predictor.neighbours", self.neighbours, ..=most, &format!("0 to {most}"))
    }
}
