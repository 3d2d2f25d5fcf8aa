//! Makes a provider of spans from the settings. OpenTelemetry's own variables decide what the
//! settings leave open.

use std::collections::{BTreeMap, HashMap};
use std::env;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    ExporterBuildError, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, SpanExporter,
    WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use super::queue::{self, BoundedQueue};
use crate::StreamError;
use crate::config::{OtlpProtocol, Secret, Telemetry};

/// The path for traces in OTLP over HTTP.
const TRACES_PATH: &str = "/v1/traces";

/// Makes a provider of the spans of `unprompt-<service>`; `None` if no collector is named or
/// traces are disabled.
pub(super) fn provider(
    telemetry: &Telemetry,
    service: &str,
) -> Result<Option<SdkTracerProvider>, StreamError> {
    if is_disabled() || endpoint(telemetry).is_none() {
        return Ok(None);
    }
    let ratio = sample_ratio(telemetry)?;
    let exporter = match protocol(telemetry) {
        OtlpProtocol::Grpc => grpc(telemetry),
        OtlpProtocol::HttpProtobuf => http(telemetry),
    }?;
    let mut builder = SdkTracerProvider::builder()
        .with_resource(resource(service))
        .with_span_processor(BoundedQueue::new(exporter, service, queue::limit()));
    if let Some(ratio) = ratio {
        builder = builder.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))));
    }
    Ok(Some(builder.build()))
}

fn is_disabled() -> bool {
    let says =
        |name: &str, word: &str| env::var(name).is_ok_and(|text| text.trim().eq_ignore_ascii_case(word));
    says("OTEL_SDK_DISABLED", "true") || says("OTEL_TRACES_EXPORTER", "none")
}

/// Returns the first of these variables that is not blank.
fn said(names: [&str; 2]) -> Option<String> {
    names.into_iter().find_map(|name| env::var(name).ok().filter(|text| !text.trim().is_empty()))
}

fn endpoint(telemetry: &Telemetry) -> Option<String> {
    let ours = telemetry.otlp_endpoint.clone().filter(|text| !text.trim().is_empty());
    ours.or_else(|| said([OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT]))
}

/// Chooses the protocol. A collector's address alone means gRPC; the variables' own default is
/// HTTP.
fn protocol(telemetry: &Telemetry) -> OtlpProtocol {
    let variable = said([OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL]);
    match (telemetry.protocol, variable.as_deref()) {
        (Some(protocol), _) => protocol,
        (None, Some("grpc")) => OtlpProtocol::Grpc,
        (None, None) if telemetry.otlp_endpoint.is_some() => OtlpProtocol::Grpc,
        (None, _) => OtlpProtocol::HttpProtobuf,
    }
}

fn grpc(telemetry: &Telemetry) -> Result<SpanExporter, StreamError> {
    let mut builder = SpanExporter::builder().with_tonic();
    if let Some(endpoint) = configured(telemetry)? {
        builder = builder.with_endpoint(endpoint);
    }
    if endpoint(telemetry).is_some_and(|endpoint| endpoint.starts_with("https:")) {
        builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    let headers = headers(&telemetry.headers)?;
    builder.with_metadata(MetadataMap::from_headers(headers)).build().map_err(unusable)
}

fn http(telemetry: &Telemetry) -> Result<SpanExporter, StreamError> {
    let mut builder = SpanExporter::builder().with_http();
    if let Some(endpoint) = configured(telemetry)? {
        builder = builder.with_endpoint(with_traces_path(endpoint));
    }
    // Checked here too, so that a value that cannot be a header is an error.
    headers(&telemetry.headers)?;
    let exposed = |(name, value): (&String, &Secret)| (name.clone(), value.expose().to_owned());
    let headers: HashMap<String, String> = telemetry.headers.iter().map(exposed).collect();
    builder.with_headers(headers).build().map_err(unusable)
}

/// Returns the endpoint of the configuration, which must be a URL.
fn configured(telemetry: &Telemetry) -> Result<Option<&str>, StreamError> {
    let Some(endpoint) = telemetry.otlp_endpoint.as_deref().filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    match endpoint.starts_with("http://") || endpoint.starts_with("https://") {
        true => Ok(Some(endpoint)),
        false => Err(wrong(format!("otlp_endpoint {endpoint:?} is not a URL; write http://{endpoint}"))),
    }
}

fn with_traces_path(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") }
}

fn headers(given: &BTreeMap<String, Secret>) -> Result<HeaderMap, StreamError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let key = HeaderName::try_from(name)
            .map_err(|_| wrong(format!("headers: {name:?} is not a valid header name")))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| wrong(format!("headers: the value of {name} is not valid; use visible ASCII")))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

fn sample_ratio(telemetry: &Telemetry) -> Result<Option<f64>, StreamError> {
    match telemetry.sample_ratio {
        Some(ratio) if !(0.0..=1.0).contains(&ratio) => {
            Err(wrong(format!("sample_ratio is {ratio}; choose 0 (none) to 1 (all)")))
        }
        ratio => Ok(ratio),
    }
}

/// Describes the service that the spans belong to. A name given by a variable stays.
fn resource(service: &str) -> Resource {
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty()) {
        true => builder.build(),
        false => builder.with_service_name(format!("unprompt-{service}")).build(),
    }
}

fn unusable(error: ExporterBuildError) -> StreamError {
    wrong(format!("{error}; see also the variables OTEL_EXPORTER_OTLP_…"))
}

fn wrong(what: String) -> StreamError {
    StreamError::Telemetry(format!("[telemetry] {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(endpoint: &str) -> Telemetry {
        Telemetry { otlp_endpoint: Some(endpoint.into()), ..Telemetry::default() }
    }

    fn refusal(telemetry: &Telemetry) -> String {
        provider(telemetry, "tested").unwrap_err().to_string()
    }

    #[test]
    fn the_http_endpoint_gets_the_traces_path_if_it_is_missing() {
        for endpoint in ["http://host:4318", "http://host:4318/", "http://host:4318/v1/traces"] {
            assert_eq!(with_traces_path(endpoint), "http://host:4318/v1/traces");
        }
    }

    #[tokio::test]
    async fn invalid_settings_are_errors_that_say_what_to_write() {
        assert!(refusal(&to("host:4317")).contains("write http://host:4317"));
        let ratio = Telemetry { sample_ratio: Some(1.5), ..to("http://host:4317") };
        assert!(refusal(&ratio).contains("0 (none) to 1 (all)"));
    }

    #[tokio::test]
    async fn an_invalid_header_is_named_in_the_error_without_its_value() {
        for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
            let headers = [("x-key".to_owned(), Secret::new("hunter2\n"))].into();
            let telemetry = Telemetry { protocol: Some(protocol), headers, ..to("http://host:4317") };
            let said = refusal(&telemetry);
            assert!(said.contains("x-key") && !said.contains("hunter2"), "{said}");
        }
    }
}
