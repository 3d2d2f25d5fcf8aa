//! `unprompt evaluate`: scores the predictions on the topic, or the current index, against the true
//! prompts.

use comfy_table::Table;
use unprompt_jobs::evaluation::{
    self, Evaluation, METHODS, RetrievalScores, Scores, Truth, read_truth, score_retrieval,
};

use crate::cli::Evaluate;
use crate::context::Context;
use crate::output;

pub async fn run(context: &Context, args: Evaluate) -> anyhow::Result<()> {
    let truth = read_truth(&args.truth)?;
    if let Some(k) = args.knn {
        return retrieval(context, &truth, k).await;
    }
    let Evaluation { scores, .. } = evaluate(context, &truth).await?;
    if context.json {
        return output::json(&scores);
    }
    output::line(table(&scores))?;
    if let Some(calibration) = &scores.calibration {
        output::line(format!(
            "expected_cosine: {:.4} off on average over tenths of the pictures, rank correlation {:.3}",
            calibration.mean_abs_error, calibration.rank_correlation
        ))?;
    }
    Ok(())
}

/// Scores the latest prediction of every picture in `truth`, and reports how many pictures have
/// none.
pub async fn evaluate(context: &Context, truth: &Truth) -> anyhow::Result<Evaluation> {
    let (kafka, codec) = (context.kafka(), context.codec()?);
    let evaluation = evaluation::evaluate(&kafka, &codec, context.models(), truth).await?;
    let predicted = evaluation.scored.len();
    if predicted < truth.len() {
        eprintln!("{predicted} of {} pictures have a prediction; the rest is not scored", truth.len());
    }
    Ok(evaluation)
}

async fn retrieval(context: &Context, truth: &Truth, k: usize) -> anyhow::Result<()> {
    let (index, kafka, codec) = (context.index().await?, context.kafka(), context.codec()?);
    let scores = score_retrieval(&index, &kafka, &codec, context.models(), truth, k).await?;
    if scores.pictures < truth.len() {
        eprintln!("{} of {} pictures are encoded; the rest is not scored", scores.pictures, truth.len());
    }
    if context.json {
        return output::json(&scores);
    }
    let RetrievalScores { pictures, prompts, knn, interval: [low, high], nearest, .. } = scores;
    output::line(format!(
        "{pictures} pictures among {prompts} prompts: knn of {k} {knn:.4} ({low:.4} to {high:.4}), nearest {nearest:.4}"
    ))
}

/// Returns the scores as a table.
pub fn table(scores: &Scores) -> Table {
    let mut table = output::table(["prediction by", "mean cosine", "95 % interval", ""]);
    for method in METHODS {
        if let (Some(mean), Some([low, high])) = (scores.mean_cosine.get(method), scores.interval.get(method))
        {
            let interval = format!("{low:.4} to {high:.4}");
            table.add_row([method, &format!("{mean:.4}"), &interval, description(method)]);
        }
    }
    table
}

fn description(method: &str) -> &'static str {
    match method {
        "mean_prompt" => "the mean of the prompts trained on, whatever the picture",
        "knn" => "the nearest prompts, weighted",
        "head" => "the ridge head",
        _ => "both, as learned on validation",
    }
}
