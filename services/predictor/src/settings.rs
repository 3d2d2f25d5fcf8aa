//! `[predictor]`: how neighbours are found.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unprompt_index::MAX_LIMIT_WITH_VECTORS;
use unprompt_models::recipe::Retrieval;
use unprompt_stream::config::Invalid;

/// The search for neighbours, and how many of them a prediction shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Neighbours that are averaged, 100 to 150 in the competition's recipe.
    pub k: usize,
    /// The space to search.
    pub retrieval: Retrieval,
    /// The number of neighbours, nearest first, that the prediction contains.
    pub neighbours: usize,
    /// The folders that head files may lie in, besides `heads` in the data directory.
    #[serde(default)]
    pub head_folders: Vec<PathBuf>,
}

impl Settings {
    /// Refuses a value that cannot be used.
    ///
    /// # Errors
    /// The key, and the values it allows.
    pub fn check(&self) -> Result<(), Invalid> {
        let (most, allowed) = (MAX_LIMIT_WITH_VECTORS, format!("1 to {MAX_LIMIT_WITH_VECTORS}"));
        Invalid::unless_in("predictor.k", self.k, 1..=most, &allowed)?;
        Invalid::unless_in("predictor.neighbours", self.neighbours, ..=most, &format!("0 to {most}"))
    }
}
