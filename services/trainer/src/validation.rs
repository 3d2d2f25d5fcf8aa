//! Learns the weight of the blend and the calibration of expected_cosine on prompts the head never
//! saw.

use std::collections::BTreeMap;

use unprompt_index::{Hit, PromptIndex, Query, Space};
use unprompt_models::head::RidgeHead;
use unprompt_models::metrics::mean_cosine;
use unprompt_models::recipe::{Neighbour, Parts, Retrieval, SearchVector, TrainedHead, search_vector};

use crate::{Pair, TrainError};

/// Queries per request to the index.
const QUERIES: usize = 32;

/// A head with the weight and calibration learned on the validation pictures, and its scores on
/// them.
#[derive(Clone, Debug)]
pub struct Validation {
    pub head: TrainedHead,
    scores: BTreeMap<String, f64>,
}

impl Validation {
    /// Predicts every validation picture as the predictor will, but without its own prompt's point,
    /// and learns from the result.
    pub async fn learn(
        index: &PromptIndex,
        ridge: RidgeHead,
        pairs: &[&Pair],
        retrieval: Retrieval,
        k: usize,
    ) -> Result<Self, TrainError> {
        let hits = neighbours(index, &ridge, pairs, retrieval, k).await?;
        let parts: Vec<Parts> = pairs
            .iter()
            .zip(&hits)
            .map(|(pair, hits)| parts(&ridge, pair, hits))
            .collect::<Result<_, _>>()?;
        let truth: Vec<&[f32]> = pairs.iter().map(|pair| pair.prompt.as_slice()).collect();
        let head = TrainedHead::learn(ridge, &parts, &truth)?;
        let scores = scores(&head, &parts, &truth);
        Ok(Self { head, scores })
    }

    /// The scores, by their names on heads.v1.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        self.scores.clone()
    }
}

async fn neighbours(
    index: &PromptIndex,
    ridge: &RidgeHead,
    pairs: &[&Pair],
    retrieval: Retrieval,
    k: usize,
) -> Result<Vec<Vec<Hit>>, TrainError> {
    let mut hits = Vec::with_capacity(pairs.len());
    for chunk in pairs.chunks(QUERIES) {
        let query = |pair: &&Pair| {
            let (space, vector) = match search_vector(retrieval, Some(ridge), &pair.image)? {
                SearchVector::Clip(vector) => (Space::Clip, vector),
                SearchVector::MiniLm(vector) => (Space::MiniLm, vector),
            };
            Ok::<_, TrainError>(Query::new(space, vector, k).exclude([pair.prompt_id]))
        };
        let queries = chunk.iter().map(query).collect::<Result<_, _>>()?;
        hits.extend(index.nearest(queries).await?);
    }
    Ok(hits)
}

fn parts(ridge: &RidgeHead, pair: &Pair, hits: &[Hit]) -> Result<Parts, TrainError> {
    let neighbours: Vec<Neighbour> = hits.iter().map(|hit| hit.similarity_and_minilm().into()).collect();
    Ok(Parts::of(&pair.image, &neighbours, Some(ridge))?)
}

/// The mean cosine of each way to predict. A way that some picture lacks is left out, as in
/// `unprompt evaluate`.
fn scores(head: &TrainedHead, parts: &[Parts], truth: &[&[f32]]) -> BTreeMap<String, f64> {
    let mean_prompt = vec![head.ridge.mean_target().to_vec(); truth.len()];
    let ways = [
        ("knn", parts.iter().map(|parts| parts.knn.clone()).collect::<Option<Vec<_>>>()),
        ("head", parts.iter().map(|parts| parts.head.clone()).collect()),
        ("blend", parts.iter().map(|parts| parts.blended(head.blend_weight)).collect()),
        ("mean_prompt", Some(mean_prompt)),
    ];
    let score = |(way, vectors): (&str, Option<Vec<Vec<f32>>>)| {
        Some((format!("validation_cosine_{way}"), mean_cosine(&vectors?, truth)))
    };
    ways.into_iter().filter_map(score).collect()
}
