//! Scores the predictions of the topic.

use std::collections::HashMap;
use std::path::PathBuf;

use unprompt_models::head::RidgeHead;
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{Head, Prediction};
use unprompt_stream::{KafkaConfig, read_records};

use super::{Scored, Scores, Truth};
use crate::blocking::blocking;
use crate::{JobError, ModelFolders};

/// The scores over all predictions, and each prediction with its true prompt.
#[derive(Debug)]
pub struct Evaluation {
    pub scores: Scores,
    /// Sorted by image_id. Pictures without a prediction are left out.
    pub scored: Vec<Scored>,
}

/// Scores the latest prediction of every picture in `truth`.
///
/// # Errors
/// [`JobError::NoPredictions`]; a Kafka that cannot be read; a MiniLM that cannot be loaded.
pub async fn evaluate(
    kafka: &KafkaConfig,
    codec: &Codec,
    models: &ModelFolders,
    truth: &Truth,
) -> Result<Evaluation, JobError> {
    let predictions = read_predictions(kafka, codec, |id| truth.contains_key(id)).await?;
    if predictions.is_empty() {
        return Err(JobError::NoPredictions { pictures: truth.len() });
    }
    let mut predictions: Vec<Prediction> = predictions.into_values().collect();
    predictions.sort_by_key(|prediction| prediction.image_id);
    let texts: Vec<String> =
        predictions.iter().map(|prediction| truth[&prediction.image_id].clone()).collect();
    let vectors = embed(models, texts.clone()).await?;
    let scored = predictions.into_iter().zip(texts).zip(vectors);
    let scored: Vec<Scored> =
        scored.map(|((prediction, text), truth)| Scored { prediction, text, truth }).collect();
    let mean_prompt = mean_prompt(kafka, codec, &scored).await?;
    Ok(Evaluation { scores: Scores::of(&scored, mean_prompt.as_deref()), scored })
}

/// Returns MiniLM's vectors of the texts, \[384\] each, in the same order.
pub(super) async fn embed(models: &ModelFolders, texts: Vec<String>) -> Result<Vec<Vec<f32>>, JobError> {
    let models = models.clone();
    let embedded = blocking("embeds the true prompts", move || {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Ok(models.load_minilm()?.embed(&texts)?)
    });
    embedded.await?
}

/// Reads the latest prediction of every picture that `is_wanted`.
///
/// # Errors
/// Those of [`read_records`].
pub async fn read_predictions(
    kafka: &KafkaConfig,
    codec: &Codec,
    is_wanted: impl Fn(&Uuid) -> bool,
) -> Result<HashMap<Uuid, Prediction>, JobError> {
    let mut predictions = HashMap::new();
    read_records(kafka, codec, |prediction: Prediction| {
        if is_wanted(&prediction.image_id) {
            predictions.insert(prediction.image_id, prediction);
        }
    })
    .await?;
    Ok(predictions)
}

/// Returns the mean of the prompts that the predictions' head was trained on.
async fn mean_prompt(
    kafka: &KafkaConfig,
    codec: &Codec,
    scored: &[Scored],
) -> Result<Option<Vec<f32>>, JobError> {
    let Some(name) = scored.iter().find_map(|one| one.prediction.head.clone()) else { return Ok(None) };
    let mut latest: Option<Head> = None;
    read_records(kafka, codec, |head: Head| {
        if head.name == name {
            latest = Some(head);
        }
    })
    .await?;
    let Some(head) = latest else { return Ok(None) };
    let path = PathBuf::from(&head.path);
    let bytes = std::fs::read(&path).map_err(|reason| JobError::Unreadable { path, reason })?;
    Ok(Some(RidgeHead::from_bytes(&bytes)?.mean_target().to_vec()))
}
