//! Waits for what a service needs and that is away as it starts: an outage is no reason for a service to end.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use unprompt_index::IndexError;
use unprompt_stream::Backoff;

use crate::cli::ServiceName;
use crate::services::{Wiring, connect, name_of};

/// Delays between two rounds of asking, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Returns once the index answers, or at once for a service that does not need it. False where `stop` came first.
///
/// # Errors
/// What no waiting mends, such as an address that is none.
pub async fn for_index(
    service: ServiceName,
    wiring: &Wiring,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    if !matches!(service, ServiceName::Indexer | ServiceName::Predictor) {
        return Ok(true);
    }
    let may_pass =
        |error: &anyhow::Error| error.downcast_ref().is_some_and(|error: &IndexError| error.is_transient());
    patiently(service, "the index", wiring, stop, may_pass, || async { connect(wiring).await.map(drop) })
        .await
}

/// Asks until there is an answer, or an error that waiting does not mend. False where `stop` came first.
///
/// # Errors
/// The first one that may not pass.
pub async fn patiently<Asking: Future<Output = anyhow::Result<()>>>(
    service: ServiceName,
    what: &str,
    wiring: &Wiring,
    stop: &CancellationToken,
    may_pass: impl Fn(&anyhow::Error) -> bool,
    ask: impl Fn() -> Asking,
) -> anyhow::Result<bool> {
    let name = name_of(service);
    // Known to be not ready while it waits.
    wiring.health.service(&format!("{}{name}", wiring.kafka.prefix));
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match ask().await {
            Ok(()) => return Ok(true),
            Err(error) if may_pass(&error) => {
                tracing::warn!(service = name, error = format!("{error:#}"), "waiting for {what}");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = stop.cancelled() => return Ok(false),
        }
    }
}
