//! `[telemetry]`: where traces go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Invalid, Secret};

/// Traces over OTLP. OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, …) decide
/// what is absent here.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// A collector, such as `http://host:4317`. Without it and without the variables,
    /// nothing is traced.
    #[serde(default)]
    pub otlp_endpoint: Option<String>,
    /// gRPC if an endpoint is given here and neither this nor a variable names a protocol.
    #[serde(default)]
    pub protocol: Option<OtlpProtocol>,
    /// The share of traces begun here that are kept, 0 to 1. A trace begun elsewhere
    /// keeps its own decision.
    #[serde(default)]
    pub sample_ratio: Option<f64>,
    /// Headers that the collector needs with every request, such as `authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
}

impl Telemetry {
    /// Finds a value that cannot be used.
    ///
    /// # Errors
    /// The key, and what it may be.
    pub fn check(&self) -> Result<(), Invalid> {
        let ratio = self.sample_ratio.unwrap_or(1.0);
        Invalid::unless_in("telemetry.sample_ratio", ratio, 0.0..=1.0, "0 to 1")
    }
}

/// The transport of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtlpProtocol {
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}
