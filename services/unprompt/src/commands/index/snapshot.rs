//! `unprompt index snapshot` and `restore`: copies the collection to one file and back.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_jobs::Progress;
use unprompt_jobs::index_build::build_graph;

use crate::cli::IndexRestore;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

pub async fn run(
    context: &Context,
    index: &IndexAccess,
    to: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let info = index.info().await?;
    let file = file_for(to, &info.collection)?;
    let progress = Progress::new("copying prompts", Some(info.points));
    let written = tokio::select! {
        written = index.snapshot(&file, |count| progress.set(count)) => written?,
        () = stop.cancelled() => bail!("stopped; no snapshot was written"),
    };
    progress.finish();
    if context.json {
        return output::json(&json!({"file": file, "points": written.points, "encoder": written.encoder}));
    }
    output::line(format!("{} prompts in {}", written.points, file.display()))
}

pub async fn restore(
    context: &Context,
    index: &IndexAccess,
    args: IndexRestore,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let total = unprompt_index::SnapshotInfo::read(&args.file)?.points;
    let progress = Progress::new("restoring prompts", Some(total));
    let resume = "stopped; the same command resumes here";
    let restored = tokio::select! {
        restored = index.restore(&args.file, args.profile, |done, _| progress.set(done)) => restored?,
        () = stop.cancelled() => bail!(resume),
    };
    progress.finish();
    if build_graph(index, stop).await?.is_none() {
        bail!("all prompts are restored, but the graph is not built; run `unprompt index optimize`");
    }
    if context.json {
        return output::json(&restored);
    }
    output::line(format!(
        "{} prompts restored, {} were already there",
        restored.points, restored.already_there
    ))
}

/// Returns the file to write. In a folder, its name is made of the collection and the time.
fn file_for(to: &Path, collection: &str) -> anyhow::Result<PathBuf> {
    if !to.is_dir() {
        return Ok(to.to_owned());
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(to.join(format!("{collection}-{seconds}.parquet")))
}
