//! `[claim_check]`: which pictures are fetched that are published as URIs, and within which bounds.

use serde::{Deserialize, Serialize};

use super::Secret;

/// `[claim_check]`: pictures that stand elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimCheck {
    /// Prefixes of the URIs that are fetched; without any nothing is.
    pub allow: Vec<String>,
    /// Whether hosts may have addresses of one's own networks.
    pub allow_private_addresses: bool,
    /// What a picture may have in bytes; without it as `[images] max_bytes`.
    #[serde(default)]
    pub max_bytes: Option<usize>,
    /// Pictures held at once, fetched or being decoded: `concurrency` times `max_bytes` is the memory for them as
    /// they come. Decoding takes more beside: no more, for all of them, than one picture of `[images] max_pixels`.
    pub concurrency: usize,
    /// How long the tries of a picture may take together, with redirects, to the last byte.
    pub timeout_ms: u64,
    /// Tries, at most.
    pub attempts: u32,
    /// Delay before the second try; it doubles from there.
    pub retry_initial_ms: u64,
    /// Delay between tries, at most.
    pub retry_max_ms: u64,
    pub s3: S3,
}

/// `[claim_check.s3]`: the store behind `s3:` URIs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// Its address; without it Amazon's of the region.
    #[serde(default)]
    pub endpoint: Option<String>,
    pub region: String,
    /// Without keys only what anybody may read is read.
    #[serde(default)]
    pub access_key_id: Option<Secret>,
    #[serde(default)]
    pub secret_access_key: Option<Secret>,
    /// Of temporary keys.
    #[serde(default)]
    pub session_token: Option<Secret>,
    /// Whether the endpoint may speak HTTP without TLS.
    pub allow_http: bool,
    /// `https://host/bucket/key`; otherwise `https://bucket.host/key`.
    pub path_style: bool,
}
