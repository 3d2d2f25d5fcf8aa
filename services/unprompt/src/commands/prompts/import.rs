//! `unprompt prompts import`: imports prompts from files of many kinds, cleaned, to prompts.v1.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_jobs::import::{Import, ImportSummary};

use super::corpus;
use crate::cli::Import as ImportArgs;
use crate::context::Context;
use crate::output;

pub async fn run(context: &Context, args: ImportArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let corpus = corpus::open(context, &args.reading).await?;
    let checkpoints = corpus::checkpoints(context, &args.reading);
    let mut import = match args.dry_run {
        true => Import::dry_run(corpus)?,
        false => Import::open(corpus, context.kafka(), context.codec()?, &checkpoints)?,
    };
    if import.resumed_at() > 0 {
        eprintln!("{} prompts were published by an earlier run: resuming after them", import.resumed_at());
    }
    let done = import.run(&stop).await;
    let summary = import.summary();
    // Reading may have finished before an error in publishing.
    corpus::write_report(&args.reading, summary.report.as_ref())?;
    done?;
    print(context, summary, args.dry_run)
}

fn print(context: &Context, summary: ImportSummary, dry_run: bool) -> anyhow::Result<()> {
    let ImportSummary { published, published_before, report } = summary;
    let report = report.unwrap_or_default();
    let skipped = report.dropped();
    if context.json {
        return output::json(&json!({
            "published": published, "published_before": published_before, "skipped": skipped, "report": report,
        }));
    }
    output::line(&report)?;
    if dry_run {
        return output::line("nothing was published: this was a dry run");
    }
    output::line(format!("{published} prompts published, {skipped} rows skipped"))
}
