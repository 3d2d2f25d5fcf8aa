//! `unprompt predict`: publishes one picture and prints its prediction.

use std::time::Duration;

use anyhow::{Context as _, bail};
use unprompt_schemas::Uuid;
use unprompt_schemas::records::Prediction;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{Publisher, Start, Tail, Traces, ensure_topics};

use crate::cli::Predict;
use crate::commands::publish::picture_record;
use crate::context::Context;
use crate::image_result::{ImageResult, image_result_of};
use crate::output;

pub async fn run(context: &Context, args: Predict) -> anyhow::Result<()> {
    let traces = context.traces("predict")?;
    let done = predict(context, args, &traces).await;
    traces.finish().await;
    done
}

async fn predict(context: &Context, args: Predict, traces: &Traces) -> anyhow::Result<()> {
    let id = Uuid::new_v4();
    let record = picture_record(&args.image, id)?;
    let kafka = context.kafka();
    ensure_topics(&kafka).await?;
    let mut tail = Tail::new(&kafka, &[Topic::Predictions, Topic::DeadLetters], Start::End).await?;
    let publisher = Publisher::new(&kafka)?.traced(traces.clone());
    publisher.publish(record).await?;
    let wait = Duration::from_secs(args.timeout_s);
    let prediction =
        tokio::time::timeout(wait, answer(context, &mut tail, id)).await.with_context(|| {
            format!(
                "no answer within {} s; are image-encoder and predictor up, and is there a prompt in the index? \
                 (unprompt up, unprompt doctor, unprompt prompts import)",
                args.timeout_s
            )
        })??;
    if context.json { output::json(&output::record(&prediction)) } else { print(&prediction, args.limit) }
}

async fn answer(context: &Context, tail: &mut Tail, id: Uuid) -> anyhow::Result<Prediction> {
    let codec = context.codec()?;
    loop {
        match image_result_of(&codec, &tail.next().await?)? {
            Some(ImageResult::Prediction(prediction)) if prediction.image_id == id => return Ok(*prediction),
            Some(ImageResult::DeadLetter { image_id, reason }) if image_id == id => bail!("{reason}"),
            _ => {}
        }
    }
}

fn print(prediction: &Prediction, limit: usize) -> anyhow::Result<()> {
    let mut table = output::table(["weight", "similarity", "prompt"]);
    for neighbour in prediction.neighbours.iter().take(limit) {
        let (weight, similarity) =
            (format!("{:.3}", neighbour.weight), format!("{:.4}", neighbour.similarity));
        table.add_row([weight, similarity, neighbour.text.clone()]);
    }
    output::line(table)?;
    match prediction.expected_cosine {
        Some(expected) => {
            output::line(format!("expected cosine to the true prompt's embedding: {expected:.3}"))?
        }
        None => output::line("expected cosine: not known; train a head first (unprompt train)")?,
    }
    let head = prediction.head.as_deref().unwrap_or("none");
    output::line(format!("encoder {}, head {head}, index {}", prediction.encoder, prediction.index))
}
