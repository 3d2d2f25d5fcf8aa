//! Retention and compaction: nisshi does them when asked.

use std::time::{Duration, SystemTime};

use nisshi_storage::Storage;
use tokio_util::sync::CancellationToken;

use super::quick_storage::QuickStorage;

const INTERVAL: Duration = Duration::from_secs(300);

/// Asks for maintenance now and then, until `stop`.
pub(super) async fn run(storage: QuickStorage, stop: CancellationToken) {
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
