//! Diverse answers: by maximal marginal relevance (Carbonell and Goldstein, 1998), which Qdrant
//! computes, or by grouping near duplicates, which is done here.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{at_most, refuse};
use crate::{Hit, IndexError};

/// The maximum number of candidates to choose answers from. MMR compares all of them with each
/// other.
const MAX_CANDIDATES: usize = 1_000;
/// The maximum number of candidates to group into near duplicates.
pub(crate) const MAX_GROUPED: usize = 10_000;
/// MMR's default number of candidates: this many per answer, and at least `LEAST_CANDIDATES`.
const CANDIDATES_AN_ANSWER: usize = 4;
const LEAST_CANDIDATES: usize = 100;

/// The required difference between answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Diversity {
    /// Maximal marginal relevance: each next answer is the candidate with the highest `lambda` ×
    /// similarity to the query − (1 − `lambda`) × similarity to the nearest answer before it.
    ///
    /// With `lambda` 1 answers are ordered by similarity; with 0 only the differences count.
    /// Similarities are in the searched space. Answers are in the order they were chosen.
    Mmr {
        lambda: f32,
        /// The number of nearest prompts to choose from, at most 1,000; by default 4 per answer,
        /// and at least 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        candidates: Option<usize>,
    },
    /// Groups prompts whose MiniLM vectors have at least this cosine with the best of their group.
    /// Only the best is an answer; the others are listed under it.
    ///
    /// At most the nearest 10,000 prompts are grouped, so there may be fewer answers than
    /// requested.
    Group { similarity: f32 },
}

impl Diversity {
    pub(super) fn check(self, reach: usize) -> Result<(), IndexError> {
        at_most(reach, MAX_CANDIDATES, "offset and limit together, with diversity,")?;
        match self {
            Self::Mmr { lambda, .. } if !(0.0..=1.0).contains(&lambda) => {
                refuse("its MMR lambda is not from 0 (differences alone) to 1 (similarity alone)")
            }
            Self::Mmr { candidates: Some(candidates), .. } if candidates < reach => {
                let text = format!("MMR cannot choose {reach} answers from {candidates} candidates");
                refuse(format!("{text}; give at least as many"))
            }
            Self::Mmr { candidates, .. } => {
                at_most(candidates.unwrap_or(reach), MAX_CANDIDATES, "number of MMR candidates")
            }
            Self::Group { similarity } if !(similarity > 0.0 && similarity <= 1.0) => {
                refuse("the similarity to group by must be above 0 and at most 1; 0.95 is usual")
            }
            Self::Group { .. } => Ok(()),
        }
    }

    /// MMR's lambda and its number of candidates for the given number of answers.
    pub(super) fn candidates(self, answers: usize) -> Option<(f32, usize)> {
        let usual = (answers * CANDIDATES_AN_ANSWER).clamp(LEAST_CANDIDATES, MAX_CANDIDATES);
        match self {
            Self::Mmr { lambda, candidates } => Some((lambda, candidates.unwrap_or(usual))),
            Self::Group { .. } => None,
        }
    }
}

/// A prompt nearly equal to an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NearDuplicate {
    pub prompt_id: Uuid,
    pub text: String,
    /// Similarity with the query, as for the answer itself.
    pub similarity: f32,
}

/// Groups of near duplicates, built from candidates that arrive best first.
#[derive(Debug)]
pub(crate) struct Groups {
    similarity: f32,
    wanted: usize,
    groups: Vec<Hit>,
    /// Candidates already taken: pages of an approximate search may overlap.
    seen: HashSet<Uuid>,
}

impl Groups {
    pub fn new(similarity: f32, wanted: usize) -> Self {
        Self { similarity, wanted, groups: Vec::new(), seen: HashSet::new() }
    }

    pub fn is_full(&self) -> bool {
        self.groups.len() >= self.wanted
    }

    /// Adds a candidate, which has its MiniLM vector, to the first group that it is near enough to.
    /// Of the candidates near to none, the first `wanted` become groups.
    pub fn take(&mut self, hit: Hit) {
        if !self.seen.insert(hit.prompt_id) {
            return;
        }
        let near = |best: &Hit| cosine(&best.minilm, &hit.minilm) >= self.similarity;
        match self.groups.iter().position(near) {
            Some(place) => self.groups[place].near_duplicates.push(NearDuplicate {
                prompt_id: hit.prompt_id,
                text: hit.text,
                similarity: hit.similarity,
            }),
            None if self.is_full() => {}
            None => self.groups.push(hit),
        }
    }

    /// The best of each group, best first.
    pub fn into_best(self) -> Vec<Hit> {
        self.groups
    }
}

/// The cosine of unit vectors, as eight partial sums that the compiler can vectorise.
fn cosine(a: &Option<Vec<f32>>, b: &Option<Vec<f32>>) -> f32 {
    let (Some(a), Some(b)) = (a, b) else { return f32::MIN };
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(id: u128, vector: [f32; 2]) -> Hit {
        Hit {
            prompt_id: Uuid::from_u128(id),
            text: format!("prompt {id}"),
            sources: Vec::new(),
            created_at_ms: 0,
            attributes: Default::default(),
            similarity: 1.0 / id as f32,
            near_duplicates: Vec::new(),
            minilm: Some(vector.into()),
            clip: None,
        }
    }

    #[test]
    fn near_duplicates_are_listed_under_the_best_of_them() {
        let mut groups = Groups::new(0.9, 2);
        let candidates = [
            hit(1, [1.0, 0.0]),
            hit(2, [0.0, 1.0]),
            hit(3, [0.995, 0.0998]),
            hit(3, [0.995, 0.0998]),
            hit(4, [-1.0, 0.0]),
        ];
        candidates.into_iter().for_each(|hit| groups.take(hit));
        assert!(groups.is_full());
        let best = groups.into_best();
        let ids = |hit: &Hit| (hit.prompt_id.as_u128(), hit.near_duplicates.len());
        assert_eq!(best.iter().map(ids).collect::<Vec<_>>(), [(1, 1), (2, 0)]);
        assert_eq!(best[0].near_duplicates[0].text, "prompt 3");
    }

    #[test]
    fn invalid_diversity_settings_are_refused_with_the_bound() {
        let mmr = |lambda, candidates| Diversity::Mmr { lambda, candidates };
        for (diversity, reach, bound) in [
            (mmr(1.5, None), 10, "0 (differences alone)"),
            (mmr(f32::NAN, None), 10, "0 (differences alone)"),
            (mmr(0.5, Some(9)), 10, "as many"),
            (mmr(0.5, Some(1_001)), 10, "1000"),
            (mmr(0.5, None), 1_001, "1000"),
            (Diversity::Group { similarity: 0.0 }, 10, "0.95"),
            (Diversity::Group { similarity: 1.1 }, 10, "0.95"),
        ] {
            let refused = diversity.check(reach).unwrap_err().to_string();
            assert!(refused.contains(bound), "{refused}");
        }
        assert!(mmr(0.5, Some(10)).check(10).is_ok());
    }
}
