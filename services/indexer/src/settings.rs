//! `[index]`: Qdrant's gRPC endpoint, and the layout of a new collection.

use serde::{Deserialize, Serialize};
use unprompt_index::{ConnectOptions, Endpoint, Profile};
use unprompt_stream::Secret;
use unprompt_stream::config::Invalid;

/// `[index]`: Qdrant's gRPC endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSection {
    /// `None` is the embedded index.
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    pub api_key: Option<Secret>,
    /// The profile of a new collection.
    pub profile: Profile,
}

impl IndexSection {
    /// Checks the URL's form. Whether Qdrant answers there is seen when it is connected to.
    ///
    /// # Errors
    /// The key, and what the URL must look like.
    pub fn check(&self) -> Result<(), Invalid> {
        let Some(url) = &self.url else { return Ok(()) };
        match url.split_once("://") {
            Some(("http" | "https", host)) if !host.is_empty() => Ok(()),
            // Not quoted: it may hold a password.
            _ => Err(Invalid::new(
                "index.url",
                "it is not the URL of a gRPC port (give one such as http://127.0.0.1:6334)",
            )),
        }
    }

    /// The endpoint at `url`, with this section's key.
    pub fn endpoint(&self, url: impl Into<String>) -> Endpoint {
        let api_key = self.api_key.as_ref().map(|key| key.expose().to_owned().into());
        Endpoint { url: url.into(), options: ConnectOptions { api_key, ..ConnectOptions::default() } }
    }
}
