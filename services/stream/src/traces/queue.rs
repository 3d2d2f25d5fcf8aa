//! The bounded queue between services and a collector. It counts the spans that are dropped, and
//! those that the collector took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::counter;
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT, Span,
    SpanData, SpanExporter, SpanProcessor,
};

const EXPORTED: &str = "unprompt_spans_exported_total";
const DROPPED: &str = "unprompt_spans_dropped_total";

/// OpenTelemetry's batching, which sends from its own thread, behind a limit that counts the spans
/// it drops.
#[derive(Debug)]
pub(super) struct BoundedQueue {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    limit: usize,
    service: String,
}

impl BoundedQueue {
    pub fn new(exporter: impl SpanExporter + 'static, service: &str, limit: usize) -> Self {
        let (waiting, service) = (Arc::new(AtomicUsize::new(0)), service.to_owned());
        let exporter = CountingExporter {
            inner: exporter,
            waiting: waiting.clone(),
            failing: AtomicBool::new(false),
            service: service.clone(),
        };
        let config = BatchConfigBuilder::default().with_max_queue_size(limit).build();
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        Self { inner, waiting, limit, service }
    }
}

/// Returns how many spans may wait, as OpenTelemetry's own variable says.
pub(super) fn limit() -> usize {
    let said = std::env::var(OTEL_BSP_MAX_QUEUE_SIZE).ok().and_then(|text| text.parse().ok());
    said.filter(|limit| *limit > 0).unwrap_or(OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT)
}

impl SpanProcessor for BoundedQueue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let one_more = |waiting| (waiting < self.limit).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => self.inner.on_end(span),
            Err(_) => {
                counter!(DROPPED, "service" => self.service.clone(), "reason" => "queue-full").increment(1);
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter that counts exported and dropped spans, and reports an unreachable collector once.
#[derive(Debug)]
struct CountingExporter<E> {
    inner: E,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
    service: String,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let exported = self.inner.export(batch).await;
        self.tell(spans as u64, &exported);
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E> CountingExporter<E> {
    fn tell(&self, spans: u64, exported: &OTelSdkResult) {
        let service = self.service.clone();
        let failed_before = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        match exported {
            Ok(()) => {
                counter!(EXPORTED, "service" => service.clone()).increment(spans);
                if failed_before {
                    tracing::info!(service, "the collector accepts traces again");
                }
            }
            Err(error) => {
                counter!(DROPPED, "service" => service.clone(), "reason" => "not-exported").increment(spans);
                if !failed_before {
                    tracing::warn!(
                        service,
                        %error,
                        "the collector does not accept traces; they are dropped and counted until \
                         it does: see [telemetry]"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// A collector that accepts nothing until it is told to.
    #[derive(Debug)]
    struct Stuck {
        begun: Sender<usize>,
        go_on: Mutex<Receiver<()>>,
    }

    impl SpanExporter for Stuck {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.begun.send(batch.len()).unwrap();
            // A sender that is gone lets it continue, too.
            let _ = self.go_on.lock().recv();
            Ok(())
        }
    }

    #[test]
    fn spans_that_do_not_fit_while_a_collector_is_stuck_are_dropped_and_counted() {
        let ((begun, batches), (go_on, gate)) = (channel(), channel());
        let queue = BoundedQueue::new(Stuck { begun, go_on: Mutex::new(gate) }, "tested", 10);
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        let recorder = PrometheusBuilder::new().build_recorder();
        let flushing = std::thread::spawn({
            drop(tracer.start("the first"));
            let provider = provider.clone();
            move || provider.force_flush()
        });
        assert_eq!(batches.recv().unwrap(), 1, "the collector has the first one, and is stuck with it");
        metrics::with_local_recorder(&recorder, || {
            (0..25).for_each(|_| drop(tracer.start("another")));
        });
        let text = recorder.handle().render();
        let counted = "unprompt_spans_dropped_total{service=\"tested\",reason=\"queue-full\"} 15";
        assert!(text.contains(counted), "{text}");
        drop(go_on);
        flushing.join().unwrap().unwrap();
        provider.shutdown().unwrap();
        assert_eq!(batches.try_iter().sum::<usize>(), 10, "what fitted was taken");
    }
}
