//! The search for near duplicates of a build, and the state from which a later run resumes it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use unprompt_corpus::CorpusError;
use unprompt_corpus::near::NearDuplicates;
use unprompt_models::minilm::MiniLm;

/// The progress of the search for near duplicates, with which a later run makes the same decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearState {
    /// The vectors in the file.
    pub vectors: u64,
    /// The rows dropped, by input.
    pub dropped: Vec<u64>,
}

impl NearState {
    /// Returns the total of rows dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    fn drop_one(&mut self, input: usize) {
        if self.dropped.len() <= input {
            self.dropped.resize(input + 1, 0);
        }
        self.dropped[input] += 1;
    }
}

/// The search for near duplicates and its state.
#[derive(Debug)]
pub struct Near {
    search: NearDuplicates,
    state: NearState,
}

impl Near {
    /// Resumes the search with the vectors in `file`. Without a file they are kept in memory, and
    /// the search cannot be resumed.
    pub fn open(threshold: f32, file: Option<&Path>, state: NearState) -> Result<Self, CorpusError> {
        let search = match file {
            Some(file) => NearDuplicates::in_file(threshold, MiniLm::DIMS, file, state.vectors)?,
            None => NearDuplicates::new(threshold, MiniLm::DIMS)?,
        };
        Ok(Self { search, state })
    }

    /// Returns whether a vector \[384\] is near an earlier kept one. Counts it for its input if so,
    /// and keeps it otherwise.
    pub fn drops(&mut self, input: usize, vector: &[f32]) -> Result<bool, CorpusError> {
        let is_near = self.search.check(vector)?.is_some();
        if is_near {
            self.state.drop_one(input);
        }
        Ok(is_near)
    }

    /// Returns the state after its vectors are flushed to the disk.
    pub fn synced(&mut self) -> Result<NearState, CorpusError> {
        self.search.sync()?;
        self.state.vectors = self.search.kept();
        Ok(self.state.clone())
    }

    /// Returns the rows dropped, by input.
    pub fn dropped(&self) -> &[u64] {
        &self.state.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(at: usize) -> Vec<f32> {
        (0..MiniLm::DIMS).map(|i| f32::from(u8::from(i == at))).collect()
    }

    #[test]
    fn a_resumed_search_knows_the_vectors_up_to_its_state_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vectors");
        let mut near = Near::open(0.9, Some(&file), NearState::default()).unwrap();
        assert!(!near.drops(0, &axis(0)).unwrap());
        assert!(near.drops(1, &axis(0)).unwrap());
        let state = near.synced().unwrap();
        assert_eq!(state, NearState { vectors: 1, dropped: vec![0, 1] });
        assert!(!near.drops(0, &axis(1)).unwrap());
        near.synced().unwrap();

        let mut resumed = Near::open(0.9, Some(&file), state).unwrap();
        assert!(resumed.drops(0, &axis(0)).unwrap(), "it was kept before the state");
        assert!(!resumed.drops(0, &axis(1)).unwrap(), "it was kept after the state");
        assert_eq!(resumed.dropped(), [1, 1]);
    }
}
