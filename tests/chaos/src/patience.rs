//! Waiting for something to become true, with an end to it.

use std::time::{Duration, Instant};

use anyhow::ensure;

/// The longest anything may take that is not the work itself, on a small and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks again and again until `holds`, or for as long as the patience lasts.
pub async fn eventually(
    what: &str,
    patience: Duration,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while !holds()? {
        ensure!(started.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
