//! `[index]`: Qdrant's gRPC endpoint, and how a collection is laid out.

use serde::{Deserialize, Serialize};
use unprompt_index::{ConnectOptions, Endpoint, Profile};
use unprompt_stream::Secret;

/// `[index]`: Qdrant's gRPC endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSection {
    /// Without it the embedded index is meant.
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    pub api_key: Option<Secret>,
    /// Of a collection that is made.
    pub profile: Profile,
}

impl IndexSection {
    /// The endpoint at `url`, with this section's key.
    pub fn endpoint(&self, url: impl Into<String>) -> Endpoint {
        let api_key = self.api_key.as_ref().map(|key| key.expose().to_owned().into());
        Endpoint { url: url.into(), options: ConnectOptions { api_key, ..ConnectOptions::default() } }
    }
}
