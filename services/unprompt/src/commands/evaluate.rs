//! `unprompt evaluate`: the score of the predictions on the topic, or of the index as it stands, against the true prompts.

mod retrieval;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use unprompt_models::head::RidgeHead;
use unprompt_models::minilm::MiniLm;
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{Head, Prediction};
use unprompt_stream::{KafkaConfig, read_records};

use crate::cli::Evaluate;
use crate::context::Context;
use crate::evaluation::{BOOTSTRAP_SEED, Scored, Scores};
use crate::output;

/// A line of the truth.
#[derive(Debug, Serialize, Deserialize)]
pub struct Truth {
    pub image_id: Uuid,
    pub text: String,
}

pub async fn run(context: &Context, args: Evaluate) -> anyhow::Result<()> {
    let truth = read_truth(&args.truth)?;
    if let Some(k) = args.knn {
        return retrieval::run(context, truth, k).await;
    }
    let (scores, _) = evaluate(context, truth).await?;
    if context.json {
        return output::json(&scores);
    }
    output::line(scores.table())?;
    if let Some(calibration) = &scores.calibration {
        output::line(format!(
            "expected_cosine: {:.4} from the cosine reached on average, rank correlation {:.3}",
            calibration.mean_abs_error, calibration.rank_correlation
        ))?;
    }
    Ok(())
}

/// Scores the latest prediction of every picture in `truth` (image_id to prompt text): all together, and each.
pub async fn evaluate(
    context: &Context,
    truth: HashMap<Uuid, String>,
) -> anyhow::Result<(Scores, Vec<Scored>)> {
    let (kafka, codec) = (context.kafka(), context.codec()?);
    let predictions = read_predictions(&kafka, &codec, |id| truth.contains_key(id)).await?;
    if predictions.is_empty() {
        bail!("none of the {} pictures has a prediction yet; publish them, or wait", truth.len());
    }
    if predictions.len() < truth.len() {
        eprintln!(
            "{} of {} pictures have a prediction; the rest is not scored",
            predictions.len(),
            truth.len()
        );
    }
    let mut minilm = MiniLm::load(&context.minilm()?, context.config.models.engine)?;
    let mut predictions: Vec<Prediction> = predictions.into_values().collect();
    predictions.sort_by_key(|prediction| prediction.image_id);
    let texts: Vec<&str> =
        predictions.iter().map(|prediction| truth[&prediction.image_id].as_str()).collect();
    let vectors = minilm.embed(&texts)?;
    let scored: Vec<Scored> = predictions
        .into_iter()
        .zip(vectors)
        .map(|(prediction, vector)| Scored {
            text: truth[&prediction.image_id].clone(),
            truth: vector,
            prediction,
        })
        .collect();
    let mean_prompt = mean_prompt(&kafka, &codec, &scored).await?;
    Ok((Scores::of(&scored, mean_prompt.as_deref()), scored))
}

/// The latest prediction of every picture that `wanted` asks for.
pub async fn read_predictions(
    kafka: &KafkaConfig,
    codec: &Codec,
    wanted: impl Fn(&Uuid) -> bool,
) -> anyhow::Result<HashMap<Uuid, Prediction>> {
    let mut predictions = HashMap::new();
    read_records(kafka, codec, |prediction: Prediction| {
        if wanted(&prediction.image_id) {
            predictions.insert(prediction.image_id, prediction);
        }
    })
    .await?;
    Ok(predictions)
}

/// The mean of the prompts that the head in these predictions was trained on.
async fn mean_prompt(
    kafka: &KafkaConfig,
    codec: &Codec,
    scored: &[Scored],
) -> anyhow::Result<Option<Vec<f32>>> {
    let Some(name) = scored.iter().find_map(|one| one.prediction.head.clone()) else { return Ok(None) };
    let mut found: Option<Head> = None;
    read_records(kafka, codec, |head: Head| {
        if head.name == name {
            found = Some(head);
        }
    })
    .await?;
    let Some(head) = found else { return Ok(None) };
    let bytes = std::fs::read(&head.path).with_context(|| format!("{} cannot be read", head.path))?;
    Ok(Some(RidgeHead::from_bytes(&bytes)?.mean_target().to_vec()))
}

fn read_truth(path: &Path) -> anyhow::Result<HashMap<Uuid, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(at, line)| {
        let truth: Truth = serde_json::from_str(line).with_context(|| {
            format!("{}:{}: not {{\"image_id\": …, \"text\": …}}", path.display(), at + 1)
        })?;
        Ok((truth.image_id, truth.text))
    });
    parsed.collect()
}
