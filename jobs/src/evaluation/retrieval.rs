//! Scores the current index: looks up pictures again by their vectors on the topic.

use std::collections::HashMap;

use serde::Serialize;
use unprompt_index::{Hit, PromptIndex, Query, Space};
use unprompt_models::metrics::{bootstrap_interval, cosine};
use unprompt_models::recipe::{Neighbour, Recipe, Retrieval};
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::ImageEmbedding;
use unprompt_stream::{KafkaConfig, read_records};

use super::predictions::embed;
use super::{BOOTSTRAP_SEED, Truth};
use crate::{JobError, ModelFolders};

/// The queries of one request.
const BATCH: usize = 64;

/// Mean cosine to the true prompt, with its 95 % bootstrap interval.
#[derive(Clone, Debug, Serialize)]
pub struct RetrievalScores {
    /// The pictures that were looked up. Those without a vector on the topic are left out.
    pub pictures: usize,
    /// The prompts in the index.
    pub prompts: u64,
    /// The neighbours that vote.
    pub k: usize,
    /// The mean cosine of the neighbours' weighted mean.
    pub knn: f64,
    pub interval: [f64; 2],
    /// The mean cosine of the nearest prompt alone.
    pub nearest: f64,
}

/// A picture's vector of the index's encoder.
type PictureVector = (Uuid, Vec<f32>);

/// Scores the `k` nearest prompts of every picture in `truth` that has a vector.
///
/// # Errors
/// [`JobError::NoEmbeddings`], [`JobError::EmptyIndex`], [`JobError::UnknownEncoder`]; an index or
/// a Kafka that cannot be read; a MiniLM that cannot be loaded.
pub async fn score_retrieval(
    index: &PromptIndex,
    kafka: &KafkaConfig,
    codec: &Codec,
    models: &ModelFolders,
    truth: &Truth,
    k: usize,
) -> Result<RetrievalScores, JobError> {
    let info = index.info().await?;
    let encoder = info.encoder.ok_or(JobError::UnknownEncoder)?;
    let pictures = picture_vectors(kafka, codec, truth, &encoder).await?;
    let texts = pictures.iter().map(|(id, _)| truth[id].clone()).collect();
    let right = embed(models, texts).await?;
    let hits = neighbours(index, &pictures, k).await?;
    let scores = hits.iter().zip(&pictures).zip(&right);
    let scores: Vec<PictureScore> =
        scores.map(|((hits, (_, image)), right)| score(hits, image, right)).collect::<Result<_, _>>()?;
    Ok(summarise(&scores, info.points, k))
}

/// The cosines of a picture's neighbours to its true prompt.
struct PictureScore {
    knn: f64,
    nearest: f64,
}

fn score(hits: &[Hit], image: &[f32], right: &[f32]) -> Result<PictureScore, JobError> {
    let recipe = Recipe { retrieval: Retrieval::Clip, head: None };
    let near: Vec<Neighbour> = hits.iter().map(|hit| hit.similarity_and_minilm().into()).collect();
    let predicted = recipe.predict(image, &near)?.ok_or(JobError::EmptyIndex)?;
    let nearest = near.first().map_or(0.0, |first| f64::from(cosine(first.minilm, right)));
    Ok(PictureScore { knn: f64::from(cosine(&predicted.vector, right)), nearest })
}

fn summarise(scores: &[PictureScore], prompts: u64, k: usize) -> RetrievalScores {
    let cosines: Vec<f64> = scores.iter().map(|score| score.knn).collect();
    let (low, high) = bootstrap_interval(&cosines, BOOTSTRAP_SEED);
    let count = scores.len() as f64;
    RetrievalScores {
        pictures: scores.len(),
        prompts,
        k,
        knn: cosines.iter().sum::<f64>() / count,
        interval: [low, high],
        nearest: scores.iter().map(|score| score.nearest / count).sum(),
    }
}

/// Returns the encoder's vector of every picture in the truth, sorted by image_id.
async fn picture_vectors(
    kafka: &KafkaConfig,
    codec: &Codec,
    truth: &Truth,
    encoder: &str,
) -> Result<Vec<PictureVector>, JobError> {
    let mut latest: HashMap<Uuid, Vec<f32>> = HashMap::new();
    read_records(kafka, codec, |embedding: ImageEmbedding| {
        let is_wanted = truth.contains_key(&embedding.image_id);
        let vector = embedding.vectors.into_iter().find(|vector| is_wanted && vector.model == encoder);
        latest.extend(vector.map(|vector| (embedding.image_id, vector.values)));
    })
    .await?;
    if latest.is_empty() {
        return Err(JobError::NoEmbeddings { encoder: encoder.to_owned(), pictures: truth.len() });
    }
    let mut vectors: Vec<PictureVector> = latest.into_iter().collect();
    vectors.sort_by_key(|(id, _)| *id);
    Ok(vectors)
}

async fn neighbours(
    index: &PromptIndex,
    pictures: &[PictureVector],
    k: usize,
) -> Result<Vec<Vec<Hit>>, JobError> {
    let mut hits = Vec::with_capacity(pictures.len());
    for batch in pictures.chunks(BATCH) {
        let query = |(_, vector): &PictureVector| Query::new(Space::Clip, vector.clone(), k);
        hits.extend(index.nearest(batch.iter().map(query).collect()).await?);
    }
    Ok(hits)
}
