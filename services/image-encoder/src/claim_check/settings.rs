//! `[claim_check]`: which pictures published as URIs are fetched, and the limits of a fetch.

use serde::{Deserialize, Serialize};
use unprompt_stream::Secret;
use unprompt_stream::config::Invalid;
use url::Url;

use super::policy::Policy;

/// `[claim_check]`: pictures published as URIs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Prefixes of the URIs that may be fetched; without any, nothing is fetched.
    pub allow: Vec<String>,
    /// Allows hosts with private addresses.
    pub allow_private_addresses: bool,
    /// The limit on a picture's bytes; default: `[images] max_bytes`.
    #[serde(default)]
    pub max_bytes: Option<usize>,
    /// Pictures in memory at once, being fetched or decoded: encoded pictures take at most
    /// `concurrency` times `max_bytes`. Decoding takes at most as much as one picture of `[images]
    /// max_pixels`, for all pictures together.
    pub concurrency: usize,
    /// The timeout of all attempts for a picture together, including redirects and the last byte.
    pub timeout_ms: u64,
    /// The maximum number of attempts.
    pub attempts: u32,
    /// The delay before the second attempt; it doubles from there.
    pub retry_initial_ms: u64,
    /// The maximum delay between attempts.
    pub retry_max_ms: u64,
    pub s3: S3,
}

impl Settings {
    /// Refuses a value that cannot be used.
    ///
    /// # Errors
    /// The key, and the values it allows.
    pub fn check(&self) -> Result<(), Invalid> {
        let at_least_one = [
            ("claim_check.concurrency", self.concurrency as u64),
            ("claim_check.attempts", u64::from(self.attempts)),
            ("claim_check.timeout_ms", self.timeout_ms),
            ("claim_check.max_bytes", self.max_bytes.unwrap_or(1) as u64),
        ];
        at_least_one
            .into_iter()
            .try_for_each(|(key, given)| Invalid::unless_in(key, given, 1.., "1 or more"))?;
        Policy::new(&self.allow).map_err(|error| Invalid::new("claim_check.allow", error.to_string()))?;
        self.s3.check()
    }
}

/// `[claim_check.s3]`: the store behind `s3:` URIs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// The store's address; `None` is Amazon's of the region.
    #[serde(default)]
    pub endpoint: Option<String>,
    pub region: String,
    /// Without keys only public objects can be read.
    #[serde(default)]
    pub access_key_id: Option<Secret>,
    #[serde(default)]
    pub secret_access_key: Option<Secret>,
    /// For temporary keys.
    #[serde(default)]
    pub session_token: Option<Secret>,
    /// Allows an endpoint that speaks HTTP without TLS.
    pub allow_http: bool,
    /// `https://host/bucket/key`; otherwise `https://bucket.host/key`.
    pub path_style: bool,
}

impl S3 {
    fn check(&self) -> Result<(), Invalid> {
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return Err(Invalid::new(
                "claim_check.s3.access_key_id",
                "it and secret_access_key belong together; set both, or neither for public buckets,",
            ));
        }
        self.endpoint.as_deref().map_or(Ok(()), |endpoint| {
            let refused =
                |wanted| Invalid::new("claim_check.s3.endpoint", format!("it cannot be used; {wanted},"));
            check_endpoint(endpoint, self.allow_http).map_err(refused)
        })
    }
}

/// Checks the endpoint. The error does not repeat it, since it may hold credentials.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<(), &'static str> {
    match Url::parse(endpoint) {
        Ok(url) if !url.has_host() || url.username() != "" || url.password().is_some() => {
            Err("write it like https://host:9000, without credentials")
        }
        Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && allow_http) => Ok(()),
        Ok(url) if url.scheme() == "http" => Err("use https, or set s3.allow_http = true"),
        _ => Err("write it like https://host:9000"),
    }
}
