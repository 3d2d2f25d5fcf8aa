//! Waits for what a service needs and that is away as it starts: an outage is no reason for a service to end.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use unprompt_index::IndexError;
use unprompt_stream::{Backoff, StreamError, ensure_topics};

use crate::cli::ServiceName;
use crate::services::{Wiring, connect, name_of};

/// Delays between two rounds of asking, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Returns once Kafka answers and has our topics. False where `stop` came first.
///
/// # Errors
/// What no waiting mends, such as credentials that are refused.
pub async fn for_topics(
    services: &[ServiceName],
    wiring: &Wiring,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    services.iter().for_each(|&service| not_ready_yet(service, wiring));
    let who = services.iter().map(|&service| name_of(service)).collect::<Vec<_>>().join(", ");
    let may_pass =
        |error: &anyhow::Error| matches!(error.downcast_ref(), Some(StreamError::Unreachable { .. }));
    let ask = || async { ensure_topics(&wiring.kafka).await.map_err(anyhow::Error::from) };
    until_answered(&who, "Kafka", stop, may_pass, ask).await
}

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
    patiently(service, "the index", wiring, stop, is_away, || async { connect(wiring).await.map(drop) }).await
}

fn is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &IndexError| error.is_transient())
}

/// Opens what a stage keeps of the index, on the stage's own thread; an index that has gone since [`for_index`] is waited for again.
///
/// # Errors
/// The first one that may not pass, and any after `stop`.
pub fn opened<T>(
    service: ServiceName,
    runtime: &Handle,
    stop: &CancellationToken,
    open: impl Fn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let name = name_of(service);
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match open() {
            Err(error) if is_away(&error) && !stop.is_cancelled() => {
                tracing::warn!(service = name, error = format!("{error:#}"), "waiting for the index");
                let delay = backoff.next_delay();
                runtime.block_on(async { stop.run_until_cancelled(tokio::time::sleep(delay)).await });
            }
            opened => return opened,
        }
    }
}

/// Known to be not ready while it waits.
fn not_ready_yet(service: ServiceName, wiring: &Wiring) {
    wiring.health.service(&format!("{}{}", wiring.kafka.prefix, name_of(service)));
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
    not_ready_yet(service, wiring);
    until_answered(name_of(service), what, stop, may_pass, ask).await
}

async fn until_answered<Asking: Future<Output = anyhow::Result<()>>>(
    who: &str,
    what: &str,
    stop: &CancellationToken,
    may_pass: impl Fn(&anyhow::Error) -> bool,
    ask: impl Fn() -> Asking,
) -> anyhow::Result<bool> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let answer = tokio::select! {
            answer = ask() => answer,
            () = stop.cancelled() => return Ok(false),
        };
        match answer {
            Ok(()) => return Ok(true),
            Err(error) if may_pass(&error) => {
                tracing::warn!(service = who, error = format!("{error:#}"), "waiting for {what}");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = stop.cancelled() => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn away() -> anyhow::Error {
        IndexError::Unreachable { url: "http://127.0.0.1:1".into(), reason: "refused".into() }.into()
    }

    #[test]
    fn an_index_that_goes_while_a_stage_is_built_is_waited_for_until_the_stop() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (stop, tries) = (CancellationToken::new(), Cell::new(0));
        let open = || {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { Err(away()) } else { Ok(7) }
        };
        assert_eq!(opened(ServiceName::Indexer, runtime.handle(), &stop, open).unwrap(), 7);
        assert_eq!(tries.get(), 2);
        let fatal = || Err(anyhow::anyhow!("another layout"));
        let done: anyhow::Result<()> = opened(ServiceName::Indexer, runtime.handle(), &stop, fatal);
        assert_eq!(done.unwrap_err().to_string(), "another layout");
        stop.cancel();
        let done: anyhow::Result<()> = opened(ServiceName::Indexer, runtime.handle(), &stop, || Err(away()));
        assert!(is_away(&done.unwrap_err()));
    }
}
