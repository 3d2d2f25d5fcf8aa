//! `unprompt index optimize`: builds the graph and waits for it.

use std::time::Instant;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_index::IndexInfo;
use unprompt_jobs::index_build::build_graph;

use crate::cli::IndexOptimize;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

pub async fn run(
    context: &Context,
    index: &IndexAccess,
    args: IndexOptimize,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(profile) = args.profile {
        index.change_profile(profile).await?;
    }
    let began = Instant::now();
    let Some(info) = build_graph(index, stop).await? else {
        anyhow::bail!("stopped; `unprompt up` or a Qdrant server continues building, else run this again");
    };
    let seconds = began.elapsed().as_secs_f64();
    if context.json {
        return output::json(&json!({
            "collection": info.collection, "profile": info.profile, "points": info.points, "segments": info.segments,
            "indexed_vectors": info.indexed_vectors, "seconds": seconds,
        }));
    }
    let IndexInfo { collection, points, indexed_vectors, segments, .. } = info;
    output::line(format!(
        "{collection}: {points} prompts, {indexed_vectors} vectors in graphs, {segments} segments, after {seconds:.1} s"
    ))
}
