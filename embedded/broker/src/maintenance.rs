//! Retention and compaction, which nisshi only does on request.

use std::time::{Duration, SystemTime};

use nisshi_storage::Storage;
use tokio_util::sync::CancellationToken;

use crate::quick_storage::QuickStorage;

const INTERVAL: Duration = Duration::from_secs(300);

/// Requests maintenance every [`INTERVAL`], until `stop`.
pub(crate) async fn run(storage: QuickStorage, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            done = storage.maintain(SystemTime::now()) => {
                if let Err(error) = done {
                    tracing::warn!(%error, "maintenance of the embedded broker failed; it is tried again later");
                }
            }
        }
    }
}
