//! Sets up tracing and metrics, once per process.

use parking_lot::Mutex;
use std::fmt::Debug;
use std::io::{IsTerminal as _, stderr};
use std::sync::OnceLock;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{self, Writer};

use crate::StreamError;
use crate::config::{Log, LogFormat};
use crate::events::names;
use crate::printable::printable;

const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];
const RECORDS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0];

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
/// Keeps two first calls from installing at once: a process has one recorder.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Starts logging to stderr, as `log` says.
///
/// # Errors
///
/// [`StreamError::Telemetry`] for a filter that cannot be read, or if a subscriber is already set.
pub fn init(log: &Log) -> Result<(), StreamError> {
    let filter = EnvFilter::try_new(quiet(&log.filter))
        .map_err(|e| StreamError::Telemetry(format!("[log] filter {:?}: {e}; try `info`", log.filter)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let builder = builder.with_ansi(stderr().is_terminal());
    let set = match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.fmt_fields(fields()).try_init(),
    };
    set.map_err(|e| StreamError::Telemetry(e.to_string()))
}

/// Writes fields as the default format does, and escapes terminal control characters: some fields
/// hold untrusted text.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let text = format!("{value:?}");
        let (text, name) = (printable(&text), field.name());
        match (name, writer.has_ansi_escapes()) {
            ("message", _) => write!(writer, "{text}"),
            (_, true) => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{text}"),
            (_, false) => write!(writer, "{name}={text}"),
        }
    };
    format::debug_fn(field).delimited(" ")
}

/// Libraries that log too much. Those of the embedded servers log every request, and flags that
/// only a Qdrant server sets. OpenTelemetry's logs every batch that a collector does not accept,
/// which we report once. Naming one in the filter overrides this.
const CHATTY: [(&str, &str); 3] = [("qdrant_edge", "error"), ("nisshi", "warn"), ("opentelemetry", "off")];

fn quiet(filter: &str) -> String {
    let unnamed = CHATTY.iter().filter(|(target, _)| !filter.contains(target));
    unnamed.fold(filter.to_owned(), |filter, (target, level)| format!("{filter},{target}={level}"))
}

/// Returns the process's metrics, which the first call installs.
///
/// # Errors
///
/// [`StreamError::Telemetry`] if another recorder is installed.
pub fn metrics() -> Result<PrometheusHandle, StreamError> {
    let _one_at_a_time = INSTALLING.lock();
    if let Some(handle) = METRICS.get() {
        return Ok(handle.clone());
    }
    let handle = install().map_err(|e| StreamError::Telemetry(e.to_string()))?;
    Ok(METRICS.get_or_init(|| handle).clone())
}

fn install() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        // Also the histograms that services name themselves.
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(names::BATCH_RECORDS.to_owned()), &RECORDS)?
        .install_recorder()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use super::*;

    /// The bytes that a log has written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn terminal_control_characters_are_escaped_in_every_log_field() {
        let (written, hostile) = (Written::default(), "x\u{1b}[2J\u{7}");
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).fmt_fields(fields());
        tracing::subscriber::with_default(log.with_writer(move || writer.clone()).finish(), || {
            tracing::info!(head = %hostile, debug = ?hostile, number = 7, "of {hostile}");
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        assert!(text.contains(r"of x\u{1b}[2J\u{7} head=x\u{1b}[2J\u{7} debug="), "{text:?}");
        assert!(text.ends_with(" number=7\n"), "{text:?}");
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }
}
