//! `unprompt query`: search the prompt index by text, picture, vector or prompt.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::json;
use unprompt_index::{Filter, Hit, MINILM_DIM, Query as IndexQuery, Space};
use unprompt_models::clip::ClipVision;
use unprompt_models::minilm::MiniLm;
use unprompt_models::picture;

use crate::cli::{Query, QueryBy};
use crate::context::Context;
use crate::output;
use crate::services::limits;

pub async fn run(context: &Context, args: Query) -> anyhow::Result<()> {
    let index = context.index().await?;
    let filter =
        Filter { sources: args.source.clone(), text_contains: args.contains.clone(), ..Filter::default() };
    let query = target(context, &args.by, args.limit)?.filter(filter).exact(args.exact);
    let mut hits = index.search(&query).await?;
    hits.retain(|hit| args.threshold.is_none_or(|threshold| hit.similarity >= threshold));
    if context.json { print_json(&hits) } else { print_table(&hits) }
}

fn target(context: &Context, by: &QueryBy, limit: usize) -> anyhow::Result<IndexQuery> {
    if let Some(text) = &by.text {
        return Ok(IndexQuery::new(Space::MiniLm, embed_text(context, text)?, limit));
    }
    if let Some(image) = &by.image {
        return Ok(IndexQuery::new(Space::Clip, embed_image(context, image)?, limit));
    }
    if let Some(id) = by.id {
        return Ok(IndexQuery::like(Space::MiniLm, id, limit));
    }
    let vector = read_vector(by.vector.as_deref().unwrap_or("-"))?;
    let space = if vector.len() == MINILM_DIM { Space::MiniLm } else { Space::Clip };
    Ok(IndexQuery::new(space, vector, limit))
}

fn embed_text(context: &Context, text: &str) -> anyhow::Result<Vec<f32>> {
    if text.trim().is_empty() {
        bail!("--text is empty; say what to look for");
    }
    let mut minilm = MiniLm::load(&context.models()?.minilm, context.engine()?)?;
    minilm.embed(&[text])?.pop().context("the engine returned no vector")
}

fn embed_image(context: &Context, path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let picture =
        picture::decode(&bytes, &limits(&context.config)).with_context(|| path.display().to_string())?;
    let clip = ClipVision::load(&context.models()?.clip)?;
    let pixels = clip.preprocess(&picture);
    clip.embed(&[&pixels])?.pop().context("the encoder returned no vector")
}

fn read_vector(argument: &str) -> anyhow::Result<Vec<f32>> {
    let mut text = argument.to_owned();
    if argument == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text)?;
    }
    serde_json::from_str(&text).context("--vector takes a JSON list of numbers, such as [0.1, -0.2, …]")
}

fn print_json(hits: &[Hit]) -> anyhow::Result<()> {
    let rows: Vec<_> = hits
        .iter()
        .map(|hit| {
            json!({
                "prompt_id": hit.prompt_id, "similarity": hit.similarity, "text": hit.text,
                "sources": hit.sources, "created_at_ms": hit.created_at_ms, "attributes": hit.attributes,
            })
        })
        .collect();
    output::json(&rows)
}

fn print_table(hits: &[Hit]) -> anyhow::Result<()> {
    if hits.is_empty() {
        eprintln!("no prompt passes the filter");
        return Ok(());
    }
    let mut table = output::table(["similarity", "prompt", "sources", "id"]);
    for hit in hits {
        table.add_row([
            &format!("{:.4}", hit.similarity),
            &hit.text,
            &hit.sources.join(", "),
            &hit.prompt_id.to_string(),
        ]);
    }
    output::line(table)
}
