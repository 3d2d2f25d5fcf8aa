//! `unprompt index recall`: measures the recall and the speed of searches against exact search.

use anyhow::bail;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_index::{RecallAt, RecallOptions};
use unprompt_jobs::Progress;

use crate::cli::IndexRecall;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

pub async fn run(
    context: &Context,
    index: &IndexAccess,
    args: IndexRecall,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let space = args.space;
    let efs = if args.ef.is_empty() { vec![None] } else { args.ef.iter().copied().map(Some).collect() };
    let options = RecallOptions { space, queries: args.queries as usize, k: args.k as usize, efs };
    let total = options.queries as u64 * (options.efs.len() as u64 + 1);
    let progress = Progress::new("asking", Some(total));
    let measured = tokio::select! {
        measured = index.recall(&options, || progress.inc(1)) => measured?,
        () = stop.cancelled() => bail!("stopped before everything was measured"),
    };
    progress.finish();
    let info = index.info().await?;
    if context.json {
        return output::json(&json!({
            "collection": info.collection, "profile": info.profile, "points": info.points, "space": space.name(),
            "k": options.k, "queries": options.queries, "measured": measured,
        }));
    }
    eprintln!(
        "{} prompts of {}, {} space, profile {}",
        info.points,
        info.collection,
        space.name(),
        info.profile
    );
    print_table(options.k, &measured)
}

fn print_table(k: usize, measured: &[RecallAt]) -> anyhow::Result<()> {
    let mut table = output::table(["ef", &format!("recall@{k}"), "p50 ms", "p99 ms", "queries/s"]);
    for at in measured {
        table.add_row([
            at.ef.map_or("the profile's".to_owned(), |ef| ef.to_string()),
            format!("{:.4}", at.recall),
            format!("{:.2}", at.p50_ms),
            format!("{:.2}", at.p99_ms),
            format!("{:.0}", at.queries_per_s),
        ]);
    }
    output::line(table)
}
