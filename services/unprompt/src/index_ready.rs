//! Waits for the prompt index before a service that needs it loads: an outage is no reason for a service to end.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use unprompt_index::IndexError;

use crate::cli::ServiceName;
use crate::services::{Wiring, connect, name_of};

/// Between two tries.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Returns once the index answers, or at once for a service that does not need it. False where `stop` came first.
///
/// # Errors
/// What no waiting mends, such as an address that is none.
pub async fn ready(service: ServiceName, wiring: &Wiring, stop: &CancellationToken) -> anyhow::Result<bool> {
    if !matches!(service, ServiceName::Indexer | ServiceName::Predictor) {
        return Ok(true);
    }
    let name = name_of(service);
    // Known to be not ready while it waits.
    wiring.health.service(&format!("{}{name}", wiring.kafka.prefix));
    loop {
        let error = match connect(wiring).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        match error.downcast_ref::<IndexError>() {
            Some(cause) if cause.is_transient() => {
                tracing::warn!(service = name, error = %cause, "waiting for the index");
            }
            _ => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = stop.cancelled() => return Ok(false),
        }
    }
}
