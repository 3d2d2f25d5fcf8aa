//! Traces: a span for each record that a service processes or a command publishes, sent to a
//! collector over OTLP.
//!
//! The context travels in the records' headers (W3C Trace Context), so that one trace follows a
//! picture from its publication to its prediction. Without a collector no spans are made and
//! nothing is paid: headers are only passed on. An unavailable collector neither stops nor slows
//! anything: spans that do not fit into a bounded queue are dropped and counted.

mod context;
mod exporter;
mod publishing;
mod queue;
mod records;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::StreamError;
use crate::config::Telemetry;

pub(crate) use publishing::PublishSpan;
pub(crate) use records::RecordSpans;

/// The time that the end of a service waits until its last spans are sent.
const LAST_SPANS: Duration = Duration::from_secs(5);
/// The instrumentation scope of the spans.
const SCOPE: &str = "unprompt";

/// The traces of one service, or none. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Tracing>>);

#[derive(Debug)]
struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Starts the traces of `unprompt-<service>`, if `telemetry` or OpenTelemetry's variables name
    /// a collector. It does not check that the collector is there. Call it in a Tokio runtime that
    /// outlives the traces.
    ///
    /// # Errors
    ///
    /// [`StreamError::Telemetry`] for settings that make no sense.
    pub fn start(telemetry: &Telemetry, service: &str) -> Result<Self, StreamError> {
        let Some(provider) = exporter::provider(telemetry, service)? else { return Ok(Self::default()) };
        let tracer = provider.tracer(SCOPE);
        Ok(Self(Some(Arc::new(Tracing { provider, tracer }))))
    }

    /// Sends the remaining spans, within a few seconds, and ends the traces for all that share
    /// them.
    pub async fn finish(&self) {
        let Some(tracing) = &self.0 else { return };
        let provider = tracing.provider.clone();
        let ending = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS));
        match ending.await {
            Ok(Ok(()) | Err(OTelSdkError::AlreadyShutdown)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans may not have reached the collector"),
            Err(error) => tracing::warn!(%error, "the traces did not end well"),
        }
    }

    fn tracer(&self) -> Option<&SdkTracer> {
        self.0.as_ref().map(|tracing| &tracing.tracer)
    }
}
