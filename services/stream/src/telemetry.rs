//! Sets tracing and metrics up, once a process.

use std::io::{IsTerminal as _, stderr};
use std::sync::{Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::StreamError;
use crate::config::{Log, LogFormat};
use crate::events::names;

const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];
const RECORDS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0];

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
/// Two first calls at once would be one too many: a process has one recorder.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Logs to stderr as `log` says.
///
/// # Errors
///
/// [`StreamError::Telemetry`] for a filter that cannot be read, or where a subscriber is set already.
pub fn init(log: &Log) -> Result<(), StreamError> {
    let filter = EnvFilter::try_new(quiet(&log.filter))
        .map_err(|e| StreamError::Telemetry(format!("[log] filter {:?}: {e}; try `info`", log.filter)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let builder = builder.with_ansi(stderr().is_terminal());
    let set = match log.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.try_init(),
    };
    set.map_err(|e| StreamError::Telemetry(e.to_string()))
}

/// The embedded servers' libraries speak of every request, and of flags that only a Qdrant server sets, OpenTelemetry's of
/// every batch that a collector does not take, of which we tell once; who names them in the filter hears them.
const CHATTY: [(&str, &str); 3] = [("qdrant_edge", "error"), ("nisshi", "warn"), ("opentelemetry", "off")];

fn quiet(filter: &str) -> String {
    let unnamed = CHATTY.iter().filter(|(target, _)| !filter.contains(target));
    unnamed.fold(filter.to_owned(), |filter, (target, level)| format!("{filter},{target}={level}"))
}

/// The process's metrics, which this installs at its first call.
///
/// # Errors
///
/// [`StreamError::Telemetry`] where another recorder is installed.
pub fn metrics() -> Result<PrometheusHandle, StreamError> {
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = METRICS.get() {
        return Ok(handle.clone());
    }
    let handle = install().map_err(|e| StreamError::Telemetry(e.to_string()))?;
    Ok(METRICS.get_or_init(|| handle).clone())
}

fn install() -> Result<PrometheusHandle, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full(names::STAGE_SECONDS), &SECONDS)?
        .set_buckets_for_metric(full(names::LATENCY_SECONDS), &SECONDS)?
        .set_buckets_for_metric(full(names::TRANSACTION_SECONDS), &SECONDS)?
        .set_buckets_for_metric(full(names::BATCH_RECORDS), &RECORDS)?
        .install_recorder()
}
