//! Fills a collection in bulk and builds its graph.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use unprompt_benchmarks::vectors::prompts;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, PromptIndex, PromptPoint, Uuid};
use unprompt_jobs::Progress;
use unprompt_tiny_world::Split;

use crate::{On, memory};

/// Prompts per upsert.
const SLAB: usize = 4_096;
/// Upserts in flight at once.
const PARALLEL: usize = 2;

pub async fn run(on: &On) -> anyhow::Result<Value> {
    let server = EmbeddedIndex::start(&on.folder, 0).await?;
    let index = PromptIndex::connect(&server.url(), options()).await?;
    index.ensure(&on.layout()).await?;
    index.begin_bulk().await?;
    let began = Instant::now();
    fill(on, &index).await?;
    let load_s = began.elapsed().as_secs_f64();
    let (began, progress) = (Instant::now(), Progress::new("indexing", Some(2 * on.of.count as u64)));
    index.finish_bulk(|info| progress.set(info.indexed_vectors)).await?;
    progress.finish();
    let (build_s, info) = (began.elapsed().as_secs_f64(), index.info().await?);
    let memory = memory::of_process()?;
    server.stop().await?;
    Ok(json!({
        "profile": on.profile, "count": on.of.count, "points": info.points, "segments": info.segments,
        "indexed_vectors": info.indexed_vectors, "load_s": load_s, "build_s": build_s, "memory": memory,
        "disk_bytes": memory::of_folder(&on.folder)?,
    }))
}

/// Options with a long timeout: a build may delay an answer for longer than usual.
pub fn options() -> ConnectOptions {
    ConnectOptions { timeout: Duration::from_secs(300), ..ConnectOptions::default() }
}

async fn fill(on: &On, index: &PromptIndex) -> anyhow::Result<()> {
    let progress = Progress::new("loading", Some(on.of.count as u64));
    let mut texts = prompts(Split::Train);
    let slabs = (0..on.of.count).step_by(SLAB).map(|first| {
        let count = SLAB.min(on.of.count - first);
        slab(on, first, texts.by_ref().take(count).collect())
    });
    stream::iter(slabs)
        .map(|slab| async {
            let slab = slab?;
            let count = slab.len() as u64;
            index.upsert(slab).await?;
            progress.inc(count);
            anyhow::Ok(())
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    progress.finish();
    Ok(())
}

/// Prompts from `first` on, with their vectors.
pub fn slab(on: &On, first: usize, texts: Vec<String>) -> anyhow::Result<Vec<PromptPoint>> {
    let vectors = on.vectors();
    let (minilm, clip) = (vectors.minilm.read(first, texts.len())?, vectors.clip.read(first, texts.len())?);
    let points = texts.into_iter().zip(minilm.into_iter().zip(clip)).enumerate();
    let point = |(at, (text, (minilm, clip)))| PromptPoint {
        prompt_id: Uuid::from_u128((first + at) as u128),
        text,
        sources: vec!["grammar".into()],
        created_at_ms: (first + at) as i64,
        version: None,
        attributes: Default::default(),
        minilm,
        clip,
    };
    Ok(points.map(point).collect())
}
