//! The small sections of this crate, as plain values.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::{Invalid, Secret};

/// `[registry]`: a Confluent-compatible schema registry, if there is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Its address, or several separated by commas. Without it, records carry their
    /// schema's fingerprint.
    #[serde(default)]
    pub url: Option<String>,
    /// True if services may register their schemas; otherwise somebody else must have done it.
    pub register: bool,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    /// A bearer token, instead of username and password.
    #[serde(default)]
    pub token: Option<Secret>,
    /// The authority that signed the registry's certificate (PEM); by default the
    /// system's authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The time that an answer may take.
    pub timeout_ms: u64,
}

impl RegistryConfig {
    /// Finds a value that cannot be used.
    ///
    /// # Errors
    /// The key, and what it may be.
    pub fn check(&self) -> Result<(), Invalid> {
        Invalid::unless_in("registry.timeout_ms", self.timeout_ms, 1.., "1 or more")
    }
}

/// `[http]`: /livez, /readyz and /metrics, on 127.0.0.1 unless `host` says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub host: IpAddr,
    /// 0 takes any free port.
    pub port: u16,
}

impl Http {
    /// Returns the address to listen on.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `[log]`: to stderr.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    /// A filter of `tracing`, such as `info,unprompt_stream=debug`.
    pub filter: String,
}

impl Log {
    /// Checks that the filter can be read.
    ///
    /// # Errors
    /// The key, and a filter that works.
    pub fn check(&self) -> Result<(), Invalid> {
        match EnvFilter::try_new(&self.filter) {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(Invalid::new("log.filter", format!("{:?}: {error} (give one such as info)", self.filter)))
            }
        }
    }
}
