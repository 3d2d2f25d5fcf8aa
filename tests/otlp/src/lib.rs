//! An OpenTelemetry collector in a test's process: it receives traces over gRPC and over HTTP, and
//! keeps the spans.

use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1 as proto;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// The request header that the collector keeps.
pub const KEPT_HEADER: &str = "x-key";

/// A span with the fields that tests check.
#[derive(Clone, Debug)]
pub struct Span {
    /// The `service.name` of its producer.
    pub service: String,
    pub trace_id: String,
    pub span_id: String,
    /// Empty for the root of a trace.
    pub parent_span_id: String,
    pub data: proto::Span,
}

impl Span {
    /// An attribute as text, also if it is a number.
    pub fn attribute(&self, name: &str) -> Option<String> {
        text_of(&self.data.attributes, name)
    }

    /// Returns whether its status is an error.
    pub fn is_error(&self) -> bool {
        self.data.status.as_ref().is_some_and(|status| status.code() == proto::status::StatusCode::Error)
    }

    /// The trace context of the records that follow from it.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    headers: Vec<Option<String>>,
}

/// A collector on free ports of this machine. Clones share the kept spans.
#[derive(Clone, Debug)]
pub struct Collector {
    kept: Arc<Mutex<Received>>,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Collector {
    /// Starts a collector, which runs until the runtime ends.
    pub async fn start() -> Self {
        let grpc = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let http = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = |listener: &TcpListener| listener.local_addr().expect("its address");
        let collector = Self { kept: Arc::default(), grpc: address(&grpc), http: address(&http) };
        let service = TraceServiceServer::new(collector.clone());
        let incoming = TcpListenerStream::new(grpc);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let router = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(http, router).await });
        collector
    }

    /// The URL for gRPC.
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The URL for HTTP, without the path.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.with(|kept| kept.spans.clone())
    }

    /// The spans of this name.
    pub fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.data.name == name).collect()
    }

    /// The value of [`KEPT_HEADER`] in each request.
    pub fn headers(&self) -> Vec<Option<String>> {
        self.with(|kept| kept.headers.clone())
    }

    fn keep(&self, header: Option<&str>, request: ExportTraceServiceRequest) {
        let spans = spans_of(request);
        self.with(|kept| {
            kept.spans.extend(spans);
            kept.headers.push(header.map(str::to_owned));
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut Received) -> T) -> T {
        look(&mut self.kept.lock())
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let header =
            request.metadata().get(KEPT_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.keep(header.as_deref(), request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    let header = headers.get(KEPT_HEADER).and_then(|value| value.to_str().ok());
    let request = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
    collector.keep(header, request);
    ExportTraceServiceResponse::default().encode_to_vec()
}

fn spans_of(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = text_of(&attributes, "service.name").unwrap_or_default();
        let found = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        spans.extend(found.map(|data| Span {
            service: service.clone(),
            trace_id: hex(&data.trace_id),
            span_id: hex(&data.span_id),
            parent_span_id: hex(&data.parent_span_id),
            data,
        }));
    }
    spans
}

fn text_of(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        Some(AnyValue { value: Some(Value::BoolValue(truth)) }) => Some(truth.to_string()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
