//! What the index's nearest prompts are worth as it stands now: pictures are looked up again by their vectors on the topic.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use serde::Serialize;
use unprompt_index::{Hit, PromptIndex, Query, Space};
use unprompt_models::metrics::{bootstrap_interval, cosine};
use unprompt_models::minilm::MiniLm;
use unprompt_models::recipe::{Neighbour, Recipe, Retrieval};
use unprompt_schemas::Uuid;
use unprompt_schemas::records::ImageEmbedding;
use unprompt_stream::read_records;

use super::BOOTSTRAP_SEED;
use crate::context::Context;
use crate::output;

/// Queries of one request.
const BATCH: usize = 64;

/// Mean cosine to the true prompt, with its 95 % bootstrap interval.
#[derive(Debug, Serialize)]
pub struct Retrieved {
    pub pictures: usize,
    /// Prompts in the index.
    pub prompts: u64,
    /// Neighbours that voted.
    pub k: usize,
    /// Of the neighbours' weighted mean.
    pub knn: f64,
    pub interval: [f64; 2],
    /// Of the nearest prompt alone.
    pub nearest: f64,
}

pub async fn run(context: &Context, truth: HashMap<Uuid, String>, k: usize) -> anyhow::Result<()> {
    let retrieved = retrieve(context, truth, k).await?;
    if context.json {
        return output::json(&retrieved);
    }
    let Retrieved { pictures, prompts, knn, interval: [low, high], nearest, .. } = retrieved;
    output::line(format!(
        "{pictures} pictures among {prompts} prompts: knn of {k} {knn:.4} ({low:.4} to {high:.4}), nearest {nearest:.4}"
    ))
}

async fn retrieve(context: &Context, truth: HashMap<Uuid, String>, k: usize) -> anyhow::Result<Retrieved> {
    let index = context.index().await?;
    let info = index.info().await?;
    let encoder = info.encoder.context("the index does not say which encoder it is of")?;
    let pictures = vectors_of(context, &truth, &encoder).await?;
    let texts: Vec<&str> = pictures.iter().map(|(id, _)| truth[id].as_str()).collect();
    let right = MiniLm::load(&context.minilm()?, context.config.models.engine)?.embed(&texts)?;
    let found = neighbours(&index, &pictures, k).await?;
    let recipe = Recipe { retrieval: Retrieval::Clip, head: None };
    let mut cosines = Vec::with_capacity(found.len());
    let mut nearest = 0.0;
    for ((hits, (_, image)), right) in found.iter().zip(&pictures).zip(&right) {
        let near: Vec<Neighbour> = hits.iter().map(|hit| hit.similarity_and_minilm().into()).collect();
        let predicted =
            recipe.predict(image, &near)?.context("the index has no prompts; import some")?;
        nearest += near.first().map_or(0.0, |first| f64::from(cosine(first.minilm, right))) / found.len() as f64;
        cosines.push(f64::from(cosine(&predicted.vector, right)));
    }
    let (low, high) = bootstrap_interval(&cosines, BOOTSTRAP_SEED);
    let knn = cosines.iter().sum::<f64>() / cosines.len() as f64;
    Ok(Retrieved { pictures: cosines.len(), prompts: info.points, k, knn, interval: [low, high], nearest })
}

/// The encoder's vector of every picture that the truth names, in the order of their ids.
async fn vectors_of(
    context: &Context,
    truth: &HashMap<Uuid, String>,
    encoder: &str,
) -> anyhow::Result<Vec<(Uuid, Vec<f32>)>> {
    let mut found: HashMap<Uuid, Vec<f32>> = HashMap::new();
    read_records(&context.kafka(), &context.codec()?, |embedding: ImageEmbedding| {
        let wanted = truth.contains_key(&embedding.image_id);
        let vector = embedding.vectors.into_iter().find(|vector| wanted && vector.model == encoder);
        found.extend(vector.map(|vector| (embedding.image_id, vector.values)));
    })
    .await?;
    if found.is_empty() {
        bail!(
            "image-embeddings.v1 has a vector of {encoder} for none of the {} pictures; publish them first",
            truth.len()
        );
    }
    if found.len() < truth.len() {
        eprintln!("{} of {} pictures are encoded; the rest is not scored", found.len(), truth.len());
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(id, _)| *id);
    Ok(found)
}

async fn neighbours(
    index: &PromptIndex,
    pictures: &[(Uuid, Vec<f32>)],
    k: usize,
) -> anyhow::Result<Vec<Vec<Hit>>> {
    let mut found = Vec::with_capacity(pictures.len());
    for batch in pictures.chunks(BATCH) {
        let query = |(_, vector): &(Uuid, Vec<f32>)| Query::new(Space::Clip, vector.clone(), k);
        found.extend(index.nearest(batch.iter().map(query).collect()).await?);
    }
    Ok(found)
}
