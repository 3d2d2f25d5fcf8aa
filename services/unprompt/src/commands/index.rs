//! `unprompt index`: manages the collection of prompts, wherever it is.

mod build;
mod optimize;
mod recall;
mod snapshot;
mod stats;

use anyhow::ensure;
use tokio_util::sync::CancellationToken;

use crate::cli::Index;
use crate::commands::export;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

pub async fn run(context: &Context, command: Index, stop: CancellationToken) -> anyhow::Result<()> {
    let index = context.index_or_host().await?;
    let done = dispatch(context, &index, command, &stop).await;
    let closed = index.close().await;
    done?;
    closed
}

async fn dispatch(
    context: &Context,
    index: &IndexAccess,
    command: Index,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    match command {
        Index::Build(args) => build::run(context, index, args, stop).await,
        Index::Stats => stats::run(context, index).await,
        Index::Optimize(args) => optimize::run(context, index, args, stop).await,
        Index::Recall(args) => recall::run(context, index, args, stop).await,
        Index::Snapshot { to } => snapshot::run(context, index, &to, stop).await,
        Index::Restore(args) => snapshot::restore(context, index, args, stop).await,
        Index::Export(args) => export::run(context, index, args, stop).await,
        Index::Drop { yes } => drop_collection(context, index, yes).await,
    }
}

async fn drop_collection(context: &Context, index: &IndexAccess, yes: bool) -> anyhow::Result<()> {
    let info = index.info().await?;
    let (collection, prompts) = (info.collection, info.points);
    ensure!(
        yes,
        "this deletes {collection:?} with its {prompts} prompts for good; confirm with --yes, and see `unprompt index snapshot`"
    );
    index.drop_collection().await?;
    if context.json {
        return output::json(&serde_json::json!({"dropped": collection, "prompts": prompts}));
    }
    output::line(format!("dropped {collection} with its {prompts} prompts"))
}
