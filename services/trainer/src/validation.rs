//! What is learned on prompts the head never saw: the blend's weight and the calibration of expected_cosine.

use std::collections::BTreeMap;

use unprompt_index::{Hit, PromptIndex, Query, Space};
use unprompt_models::blend::{blend, knn_vector, learn_weight};
use unprompt_models::calibration::{Calibration, Evidence};
use unprompt_models::head::RidgeHead;
use unprompt_models::metrics::{cosine, mean_cosine};

use crate::{Pair, TrainError};

/// Queries in one request to the index.
const QUERIES: usize = 32;

/// Learned on the validation prompts, with the scores it was learned at.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Weight of the head's vector, 0 to 1.
    pub blend_weight: f32,
    /// From the evidence of a prediction to its expected cosine.
    pub calibration: Calibration,
    scores: BTreeMap<String, f64>,
}

/// The parts of one validation picture's prediction.
struct Parts {
    knn: Vec<f32>,
    head: Vec<f32>,
    similarities: Vec<f32>,
    weights: Vec<f32>,
}

impl Validation {
    /// Predicts every validation picture without its own prompt's point and learns from the outcome.
    pub async fn learn(
        index: &PromptIndex,
        ridge: &RidgeHead,
        pairs: &[&Pair],
        k: usize,
    ) -> Result<Self, TrainError> {
        let hits = neighbours(index, pairs, k).await?;
        let parts: Vec<Parts> =
            pairs.iter().zip(hits).map(|(pair, hits)| parts(ridge, pair, &hits)).collect::<Result<_, _>>()?;
        let truth: Vec<&[f32]> = pairs.iter().map(|pair| pair.prompt.as_slice()).collect();
        let knn: Vec<&[f32]> = parts.iter().map(|part| part.knn.as_slice()).collect();
        let head: Vec<&[f32]> = parts.iter().map(|part| part.head.as_slice()).collect();
        let blend_weight = learn_weight(&knn, &head, &truth);
        let blended: Vec<Vec<f32>> =
            knn.iter().zip(&head).map(|(knn, head)| blend(knn, head, blend_weight)).collect();
        let calibration = calibrate(&parts, &blended, &truth)?;
        let scores = [
            ("validation_cosine_knn", mean_cosine(&knn, &truth)),
            ("validation_cosine_head", mean_cosine(&head, &truth)),
            ("validation_cosine_blend", mean_cosine(&blended, &truth)),
            ("validation_cosine_mean_prompt", mean_cosine(&vec![ridge.mean_target(); truth.len()], &truth)),
        ];
        let scores = scores.into_iter().map(|(name, score)| (name.to_owned(), score)).collect();
        Ok(Self { blend_weight, calibration, scores })
    }

    /// The scores, by the names they have on heads.v1.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        self.scores.clone()
    }
}

async fn neighbours(index: &PromptIndex, pairs: &[&Pair], k: usize) -> Result<Vec<Vec<Hit>>, TrainError> {
    let mut hits = Vec::with_capacity(pairs.len());
    for chunk in pairs.chunks(QUERIES) {
        let query = |pair: &&Pair| {
            Query::new(Space::Clip, pair.image.clone(), k)
                .exclude([pair.prompt_id])
                .with_vectors([Space::MiniLm])
        };
        let queries: Vec<Query> = chunk.iter().map(query).collect();
        hits.extend(index.search_batch(&queries).await?);
    }
    Ok(hits)
}

/// Without a neighbour the head stands for both parts, as in a prediction.
fn parts(ridge: &RidgeHead, pair: &Pair, hits: &[Hit]) -> Result<Parts, TrainError> {
    let head = ridge.predict(&pair.image)?;
    let neighbours: Vec<(f32, &[f32])> =
        hits.iter().filter_map(|hit| Some((hit.similarity, hit.minilm.as_deref()?))).collect();
    let (knn, weights) =
        if neighbours.is_empty() { (head.clone(), Vec::new()) } else { knn_vector(&neighbours) };
    Ok(Parts {
        knn,
        head,
        similarities: neighbours.iter().map(|(similarity, _)| *similarity).collect(),
        weights,
    })
}

fn calibrate(parts: &[Parts], blended: &[Vec<f32>], truth: &[&[f32]]) -> Result<Calibration, TrainError> {
    let evidence: Vec<Evidence> = parts
        .iter()
        .map(|part| Evidence::new(&part.knn, &part.head, &part.similarities, &part.weights))
        .collect();
    let reached: Vec<f32> =
        blended.iter().zip(truth).map(|(blended, truth)| cosine(blended, truth)).collect();
    Ok(Calibration::fit(&evidence, &reached)?)
}
