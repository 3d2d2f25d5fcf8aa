//! `unprompt index build`: writes prompts from files directly to the collection, without the
//! topics.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_jobs::index_build::{IndexBuild, IndexBuildSettings, IndexBuildSummary};

use crate::cli::IndexBuild as IndexBuildArgs;
use crate::commands::prompts::corpus;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

pub async fn run(
    context: &Context,
    index: &IndexAccess,
    args: IndexBuildArgs,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let corpus = corpus::open(context, &args.reading).await?;
    let checkpoints = corpus::checkpoints(context, &args.reading);
    let settings = IndexBuildSettings {
        profile: args.profile.unwrap_or(context.config.index.profile),
        near_duplicate: args.near_duplicate,
        graph: !args.no_graph,
    };
    let mut build = IndexBuild::open(index, context.models(), corpus, settings, &checkpoints).await?;
    say_where_it_begins(&build);
    let done = build.run(stop).await;
    let summary = build.summary();
    // Reading may have finished before an error in indexing.
    corpus::write_report(&args.reading, summary.report.as_ref())?;
    done?;
    if args.no_graph {
        eprintln!("no graph was built: searches compare with every prompt until `unprompt index optimize`");
    }
    print(context, index, summary).await
}

fn say_where_it_begins(build: &IndexBuild) {
    if let Some(points) = build.forgotten() {
        eprintln!("the collection holds {points} prompts, fewer than an earlier run wrote: beginning again");
    }
    if build.resumed_at() > 0 {
        eprintln!("{} prompts were indexed by an earlier run: resuming after them", build.resumed_at());
    }
}

async fn print(context: &Context, index: &IndexAccess, summary: IndexBuildSummary) -> anyhow::Result<()> {
    let IndexBuildSummary { indexed, indexed_before, report } = summary;
    let (report, info) = (report.unwrap_or_default(), index.info().await?);
    if context.json {
        return output::json(&json!({
            "indexed": indexed, "indexed_before": indexed_before, "skipped": report.dropped(),
            "collection": info.collection, "points": info.points, "report": report,
        }));
    }
    output::line(&report)?;
    let before = match indexed_before {
        0 => String::new(),
        before => format!(" after {before} of an earlier run"),
    };
    output::line(format!("{indexed} prompts indexed{before}; {} holds {}", info.collection, info.points))
}
