//! `unprompt train`: trains a head from the records of the topics.

use unprompt_models::{Revision, encoder};
use unprompt_trainer::{Settings, Skipped, Trained};

use crate::cli::Train;
use crate::context::Context;
use crate::output;

pub async fn run(context: &Context, args: Train) -> anyhow::Result<()> {
    let trained = train(context, &args).await?;
    if context.json {
        return output::json(&trained.head);
    }
    let mut table = output::table(["measure", "value"]);
    table.add_row(["pictures trained on", &trained.train.to_string()]);
    table.add_row(["pictures validated on", &trained.validation.to_string()]);
    table.add_row(["weight of the head in the blend", &format!("{:.3}", trained.head.blend_weight)]);
    for (name, value) in &trained.head.metrics {
        table.add_row([name.as_str(), &format!("{value:.4}")]);
    }
    if trained.skipped != Skipped::default() {
        let Skipped { bad_vectors, other_minilm, deleted } = trained.skipped;
        table.add_row(["skipped: faulty vectors", &bad_vectors.to_string()]);
        table.add_row(["skipped: prompts of another MiniLM", &other_minilm.to_string()]);
        table.add_row(["skipped: pictures of deleted prompts", &deleted.to_string()]);
    }
    output::line(table)?;
    output::line(format!("announced as {} on heads.v1: {}", trained.head.name, trained.head.path))
}

/// Trains with the index and the encoder of the configuration. The demo uses this too.
pub async fn train(context: &Context, args: &Train) -> anyhow::Result<Trained> {
    let clip = context.clip()?;
    let settings = Settings {
        name: args.name.clone(),
        encoder: encoder::vector_name(&clip, context.config.models.clip_side)?,
        dims: encoder::dims(&clip)?,
        minilm: Revision::of_folder(&context.minilm()?)?.to_string(),
        validation: args.validation,
        out: args.out.clone().unwrap_or_else(|| context.data_dir().join("heads")),
        retrieval: context.config.predictor.retrieval,
        k: context.config.predictor.k,
        now_ms: now_ms(),
    };
    let index = context.index().await?;
    Ok(unprompt_trainer::train(&context.kafka(), &index, &context.codec()?, &settings).await?)
}

/// Returns the time in milliseconds since the epoch.
fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as i64)
}
