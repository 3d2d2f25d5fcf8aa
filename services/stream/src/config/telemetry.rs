//! Where traces go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Invalid, Secret};

/// `[telemetry]`: traces over OTLP. What is absent is left to OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, …).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// A collector, such as `http://host:4317`; without it, and without the variables, nothing is traced.
    #[serde(default)]
    pub otlp_endpoint: Option<String>,
    /// gRPC where an endpoint is given here and nothing else is said.
    #[serde(default)]
    pub protocol: Option<OtlpProtocol>,
    /// The share of traces begun here that are kept, 0 to 1; a trace begun elsewhere keeps its own decision.
    #[serde(default)]
    pub sample_ratio: Option<f64>,
    /// What the collector wants to be told with every request, such as `authorization`.
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

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtlpProtocol {
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}
