//! Diagnoses connections from librdkafka's callbacks. Log lines go to tracing. The reason that
//! keeps a client from its broker is remembered, since a call that waits for an answer only says
//! that none came.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::watch;

use crate::StreamError;
use crate::config::KafkaConfig;

/// The number of refusals that rule out an accident. A single one may be accidental, for example
/// from a broker that is still loading its users.
const REFUSALS: u32 = 2;
/// A refusal this long after the last one starts a new count, and a refusal this old no longer
/// counts. librdkafka reports a lasting refusal every 30 seconds.
const APART: Duration = Duration::from_secs(60);
/// The text that every error of OpenSSL contains.
const TLS_ALERT: &str = "SSL routines";
/// The number of events taken at once from a client that nobody polls.
const EVENTS: usize = 100;

/// The context of clients that only need logging. Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoggingContext {
    pub connection: ConnectionWatch,
}

impl ClientContext for LoggingContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.connection.note(&error, reason);
        log_error(&error, reason);
    }

    /// Only the runner's consumer uses statistics.
    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for LoggingContext {}

/// The kind of problem that keeps a client from its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionErrorKind {
    Connection,
    Credentials,
    Tls,
}

/// The last problem of a client, if any, and how often it was refused.
#[derive(Clone, Debug, Default)]
struct ConnectionState {
    last: Option<(ConnectionErrorKind, String)>,
    refusals: u32,
    refused_at: Option<Instant>,
}

/// The problem that keeps a client from its broker. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionWatch(watch::Sender<ConnectionState>);

impl Default for ConnectionWatch {
    fn default() -> Self {
        Self(watch::Sender::new(ConnectionState::default()))
    }
}

impl ConnectionWatch {
    /// Notes an error of the client's connections.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        // "All brokers down" is a consequence, and says nothing about the cause.
        let is_cause = error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown);
        let Some(kind) = kind_of(error).filter(|_| is_cause) else { return };
        // In TLS 1.3 a broker refuses our certificate after the handshake, which librdkafka sees as
        // a broken connection.
        let kind = if kind == ConnectionErrorKind::Connection && reason.contains(TLS_ALERT) {
            ConnectionErrorKind::Tls
        } else {
            kind
        };
        self.0.send_modify(|told| told.note(kind, reason, Instant::now()));
    }

    /// Forgets earlier refusals, after a success.
    pub fn forget(&self) {
        self.0.send_if_modified(|told| std::mem::take(told).refusals > 0);
    }

    /// Returns whether the broker has refused us more than once.
    pub fn is_refused(&self) -> bool {
        self.0.borrow().is_refused()
    }

    /// Waits until the broker has refused us more than once, and returns the reason.
    pub async fn refused(&self, brokers: &str) -> StreamError {
        let waited = self.0.subscribe().wait_for(ConnectionState::is_refused).await.map(|told| told.clone());
        waited.unwrap_or_default().into_error(brokers, KafkaError::Canceled)
    }

    /// Returns the true cause of a missing answer.
    pub fn explain(&self, brokers: &str, source: KafkaError) -> StreamError {
        self.0.borrow().clone().into_error(brokers, source)
    }
}

impl ConnectionState {
    fn note(&mut self, kind: ConnectionErrorKind, reason: &str, now: Instant) {
        if kind != ConnectionErrorKind::Connection {
            let is_new = self.refused_at.is_none_or(|at| now.duration_since(at) > APART);
            self.refusals = if is_new { 1 } else { self.refusals + 1 };
            self.refused_at = Some(now);
        }
        // A connection that is closed after a refusal is a consequence of the refusal.
        if kind != ConnectionErrorKind::Connection || self.refusals == 0 {
            self.last = Some((kind, reason.to_owned()));
        }
    }

    fn is_refused(&self) -> bool {
        self.refusals >= REFUSALS && self.refused_at.is_some_and(|at| at.elapsed() <= APART)
    }

    fn into_error(self, brokers: &str, source: KafkaError) -> StreamError {
        let brokers = brokers.to_owned();
        match self.last {
            Some((ConnectionErrorKind::Credentials, reason)) => StreamError::Credentials { brokers, reason },
            Some((ConnectionErrorKind::Tls, reason)) => StreamError::Tls { brokers, reason },
            Some((ConnectionErrorKind::Connection, reason)) => StreamError::Unreachable { brokers, reason },
            None => StreamError::Unreachable { brokers, reason: source.to_string() },
        }
    }
}

/// Explains why a consumer that nobody polls got no answer: the reason lies in its event queue.
pub(crate) fn explain(
    kafka: &KafkaConfig,
    consumer: &BaseConsumer<LoggingContext>,
    error: KafkaError,
) -> StreamError {
    listen(consumer);
    consumer.context().connection.explain(&kafka.brokers, error)
}

/// Returns whether the broker has refused a consumer that nobody polls.
pub(crate) fn is_refused(consumer: &BaseConsumer<LoggingContext>) -> bool {
    listen(consumer);
    consumer.context().connection.is_refused()
}

fn listen(consumer: &BaseConsumer<LoggingContext>) {
    for _ in 0..EVENTS {
        // `None` does not mean that the queue is empty: log lines return `None` too.
        drop(consumer.poll(Duration::ZERO));
    }
}

/// The time that refused credentials are tolerated during a run: until a new password has spread,
/// or a token's issuer is back.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(25);

/// Refused credentials in a run that had started well.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CredentialRefusals {
    since: Option<Instant>,
    last: Option<Instant>,
}

impl CredentialRefusals {
    /// Returns whether the error is a refusal, and refusals have lasted long enough to give up.
    pub fn are_final(&mut self, error: &KafkaError) -> bool {
        rejects_credentials(error) && self.note(Instant::now())
    }

    fn note(&mut self, now: Instant) -> bool {
        if self.last.replace(now).is_none_or(|last| now.duration_since(last) > APART) {
            self.since = Some(now);
        }
        self.since.is_some_and(|since| now.duration_since(since) >= REFUSAL_PATIENCE)
    }
}

/// Logs a message of librdkafka. It retries nearly everything it complains about, so its `Error`
/// level becomes a warning at most.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if facility != "FAIL" => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// Logs an error. A lost connection is only a debug line: whoever waits for the broker reports it,
/// once instead of at every attempt.
pub(crate) fn log_error(error: &KafkaError, reason: &str) {
    let is_end = matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PartitionEOF));
    if is_end || is_connection(error) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    } else {
        tracing::warn!(target: "librdkafka", %error, "{reason}");
    }
}

/// Returns whether librdkafka only reports a lost connection, which it restores by itself.
pub(crate) fn is_connection(error: &KafkaError) -> bool {
    kind_of(error) == Some(ConnectionErrorKind::Connection)
}

/// Returns whether the broker rejects our credentials, or we have none to give.
pub(crate) fn rejects_credentials(error: &KafkaError) -> bool {
    kind_of(error) == Some(ConnectionErrorKind::Credentials)
}

/// Returns whether the error concerns a connection, encrypted or not, or credentials. It may pass
/// with time, or with a renewed certificate or token.
pub(crate) fn may_pass(error: &KafkaError) -> bool {
    kind_of(error).is_some()
}

fn kind_of(error: &KafkaError) -> Option<ConnectionErrorKind> {
    Some(match error.rdkafka_error_code()? {
        RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::AllBrokersDown
        | RDKafkaErrorCode::Resolve
        | RDKafkaErrorCode::OperationTimedOut => ConnectionErrorKind::Connection,
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::UnsupportedSASLMechanism
        | RDKafkaErrorCode::IllegalSASLState => ConnectionErrorKind::Credentials,
        RDKafkaErrorCode::SSL => ConnectionErrorKind::Tls,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: RDKafkaErrorCode) -> KafkaError {
        KafkaError::Global(code)
    }

    #[test]
    fn a_timeout_is_explained_by_the_refusal_before_it() {
        let connection = ConnectionWatch::default();
        let explained = || connection.explain("a:1", error(RDKafkaErrorCode::OperationTimedOut)).to_string();
        assert!(explained().contains("a:1 does not answer"), "{}", explained());
        connection.note(&error(RDKafkaErrorCode::BrokerTransportFailure), "connection refused");
        assert!(explained().contains("connection refused"), "{}", explained());
        connection.note(&error(RDKafkaErrorCode::Authentication), "invalid credentials");
        assert!(!connection.is_refused(), "once may be an accident");
        connection.note(&error(RDKafkaErrorCode::Authentication), "invalid credentials");
        connection.note(&error(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        connection.note(&error(RDKafkaErrorCode::BrokerTransportFailure), "disconnected");
        assert!(connection.is_refused());
        assert!(explained().contains("invalid credentials"), "{}", explained());
        connection.forget();
        assert!(!connection.is_refused() && !explained().contains("credentials"), "{}", explained());
    }

    #[test]
    fn refused_credentials_are_tolerated_briefly_and_final_if_they_persist() {
        let (start, mut refusals) = (Instant::now(), CredentialRefusals::default());
        let mut at = |seconds| refusals.note(start + Duration::from_secs(seconds));
        assert!(!at(0) && !at(1));
        assert!(at(31), "librdkafka reports it again");
        assert!(!at(200), "that was long ago");
    }
}
