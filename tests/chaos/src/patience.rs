//! Waits for a condition, with a timeout.

use std::time::{Duration, Instant};

use anyhow::ensure;

/// The timeout of everything but the work itself, on a small and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Polls until `holds` returns true, at most for `patience`.
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
