//! Waits for dependencies that are unavailable when a service starts: an outage is no reason for a
//! service to end.

use std::fmt::Display;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::Backoff;

/// Delays between two attempts: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Asks until there is an answer or a permanent error (`may_pass` returns false). Returns false if
/// `stop` came first.
///
/// The log says that `who` waits for `what`.
///
/// # Errors
/// The first permanent error.
pub async fn until_answered<E: Display, Asking: Future<Output = Result<(), E>>>(
    who: &str,
    what: &str,
    stop: &CancellationToken,
    may_pass: impl Fn(&E) -> bool,
    ask: impl Fn() -> Asking,
) -> Result<bool, E> {
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

/// Opens something on a stage's own thread, and tries again while its error may pass.
///
/// # Errors
/// The first error that may not pass, and any after `stop`.
pub fn until_opened<T, E: Display>(
    who: &str,
    what: &str,
    runtime: &Handle,
    stop: &CancellationToken,
    may_pass: impl Fn(&E) -> bool,
    open: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match open() {
            Err(error) if may_pass(&error) && !stop.is_cancelled() => {
                tracing::warn!(service = who, error = format!("{error:#}"), "waiting for {what}");
                let delay = backoff.next_delay();
                runtime.block_on(async { stop.run_until_cancelled(tokio::time::sleep(delay)).await });
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn may_pass(error: &&str) -> bool {
        *error == "away"
    }

    #[test]
    fn opening_is_retried_on_transient_errors_until_the_stop() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (stop, attempts) = (CancellationToken::new(), Cell::new(0));
        let opened = |open: &dyn Fn() -> Result<i32, &'static str>| {
            until_opened("indexer", "the index", runtime.handle(), &stop, may_pass, open)
        };
        let second_time = || {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 1 { Err("away") } else { Ok(7) }
        };
        assert_eq!(opened(&second_time), Ok(7));
        assert_eq!(attempts.get(), 2);
        assert_eq!(opened(&|| Err("another layout")), Err("another layout"));
        stop.cancel();
        assert_eq!(opened(&|| Err("away")), Err("away"));
    }

    #[tokio::test]
    async fn a_request_is_retried_on_transient_errors_until_the_stop() {
        let (stop, attempts) = (CancellationToken::new(), Cell::new(0));
        let ask = || {
            attempts.set(attempts.get() + 1);
            std::future::ready(if attempts.get() == 1 { Err("away") } else { Ok(()) })
        };
        assert_eq!(until_answered("predictor", "Kafka", &stop, may_pass, ask).await, Ok(true));
        let refused = || std::future::ready(Err("refused"));
        assert_eq!(until_answered("predictor", "Kafka", &stop, may_pass, refused).await, Err("refused"));
        stop.cancel();
        let away = || std::future::ready(Err("away"));
        assert_eq!(until_answered("predictor", "Kafka", &stop, may_pass, away).await, Ok(false));
    }
}
