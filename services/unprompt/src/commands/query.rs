//! `unprompt query`: searches the prompt index by text, picture, vector or prompt, once or in
//! batches.

mod requests;

use std::path::Path;

use anyhow::{Context as _, bail};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::table::{Columns, TableWriter};
use unprompt_index::Hit;
use unprompt_jobs::query::{BatchSearch, QueryEncoder};

use crate::cli::Query;
use crate::commands::export::row_of_hit;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

pub async fn run(context: &Context, args: Query, stop: CancellationToken) -> anyhow::Result<()> {
    let index = context.index_or_host().await?;
    let done = search(context, &index, &args, &stop).await;
    let closed = index.close().await;
    done?;
    closed
}

async fn search(
    context: &Context,
    index: &IndexAccess,
    args: &Query,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut encoder = QueryEncoder::new(context.models().clone(), context.config.images);
    if let Some(file) = &args.by.batch {
        let batch = BatchSearch::open(file, requests::defaults(args)?, encoder)?;
        return answer(batch, index, stop).await;
    }
    let request = requests::of_flags(args)?;
    let writer = args.out.as_deref().map(|path| table(path, args.with_vectors)).transpose()?;
    let query = block_in_place(|| request.resolve(&mut encoder))?;
    encoder.check_against(&index.info().await?)?;
    let Some(hits) = stop.run_until_cancelled(index.search(&query)).await else {
        bail!("stopped before the index answered");
    };
    let hits = hits?;
    match writer {
        Some(writer) => write(writer, args.out.as_deref().unwrap_or(Path::new("")), hits),
        None if context.json => output::json(&hits),
        None => print_table(&hits),
    }
}

/// Prints one result per line.
async fn answer(mut batch: BatchSearch, index: &IndexAccess, stop: &CancellationToken) -> anyhow::Result<()> {
    while let Some(results) = batch.next(index, stop).await? {
        results.iter().try_for_each(output::json)?;
    }
    Ok(batch.finish()?)
}

fn table(path: &Path, vectors: bool) -> anyhow::Result<TableWriter> {
    Ok(TableWriter::create(path, Columns { similarity: true, seeds: false, vectors })?)
}

fn write(mut writer: TableWriter, path: &Path, hits: Vec<Hit>) -> anyhow::Result<()> {
    let rows: Vec<_> = hits.into_iter().map(row_of_hit).collect();
    writer.write(&rows)?;
    let rows = writer.finish().with_context(|| path.display().to_string())?;
    output::line(format!("{rows} prompts in {}", path.display()))
}

fn print_table(hits: &[Hit]) -> anyhow::Result<()> {
    if hits.is_empty() {
        eprintln!("no prompt passes the filter");
        return Ok(());
    }
    let grouped = hits.iter().any(|hit| !hit.near_duplicates.is_empty());
    let mut table = output::table(["similarity", "prompt", "sources", "id"]);
    if grouped {
        table.set_header(["similarity", "prompt", "sources", "id", "near duplicates"]);
    }
    for hit in hits {
        let mut row = vec![
            format!("{:.4}", hit.similarity),
            hit.text.clone(),
            hit.sources.join(", "),
            hit.prompt_id.to_string(),
        ];
        row.extend(grouped.then(|| hit.near_duplicates.len().to_string()));
        table.add_row(row);
    }
    output::line(table)
}
