//! Waits for the collection's graph.

use std::time::Instant;

use tokio_util::sync::CancellationToken;
use unprompt_index::{IndexInfo, PromptIndex};

use crate::{JobError, Progress};

/// Ends a bulk load, if there is one, and waits for the graph while showing its progress. None if
/// `stop` came first; the server continues to build.
///
/// # Errors
/// Those of [`PromptIndex::finish_bulk`].
pub async fn build_graph(
    index: &PromptIndex,
    stop: &CancellationToken,
) -> Result<Option<IndexInfo>, JobError> {
    // Each prompt has two vectors.
    let total = 2 * index.info().await?.points;
    let progress = Progress::new("building the graph: vectors", Some(total));
    let began = Instant::now();
    let building = index.finish_bulk(|info| {
        progress.note(format!("{} s so far, a graph counts when it is whole", began.elapsed().as_secs()));
        progress.set(info.indexed_vectors.min(total));
    });
    let info = stop.run_until_cancelled(building).await.transpose()?;
    progress.finish();
    Ok(info)
}
