//! Writes outside a bulk load, as the indexer makes them: in batches and one by one, each read,
//! merged and durable. Then counts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unprompt_benchmarks::vectors::prompts;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{Filter, PromptIndex, PromptPoint};
use unprompt_tiny_world::Split;

use crate::load::{options, slab};
use crate::{On, percentile_ms};

/// Prompts per upsert: the indexer's batch.
const BATCH: usize = 64;
/// Prompts written one by one.
const SINGLES: usize = 200;
/// The timeout for building the graph.
const BUILD_PATIENCE: Duration = Duration::from_secs(3_600);

pub async fn run(on: &On) -> anyhow::Result<Value> {
    let server = EmbeddedIndex::start(&on.folder, 0).await?;
    let index = PromptIndex::connect(&server.url(), options()).await?;
    index.ensure(&on.layout()).await?;
    let points = slab(on, 0, prompts(Split::Train).take(on.of.count).collect())?;
    let batches_s = in_batches(&index, &points).await?;
    let began = Instant::now();
    index.optimize_wait(BUILD_PATIENCE).await?;
    let build_s = began.elapsed().as_secs_f64();
    let singles = one_by_one(&index, &points[..SINGLES.min(points.len())]).await?;
    let began = Instant::now();
    let counted = index.count(&Filter::source("grammar")).await?;
    let count_ms = began.elapsed().as_secs_f64() * 1e3;
    server.stop().await?;
    Ok(json!({
        "profile": on.profile, "count": on.of.count, "prompts_per_s": points.len() as f64 / batches_s,
        "build_s": build_s, "one_p50_ms": percentile_ms(&singles, 0.5), "one_p99_ms": percentile_ms(&singles, 0.99),
        "counted": counted, "count_by_source_ms": count_ms,
    }))
}

/// Writes the points in batches; returns the seconds it took.
async fn in_batches(index: &PromptIndex, points: &[PromptPoint]) -> anyhow::Result<f64> {
    let began = Instant::now();
    for batch in points.chunks(BATCH) {
        index.upsert(batch.to_vec()).await?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Rewrites prompts that the index already has. Returns the times, sorted.
async fn one_by_one(index: &PromptIndex, points: &[PromptPoint]) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(points.len());
    for point in points {
        let began = Instant::now();
        index.upsert(vec![point.clone()]).await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}
