//! The sections of a process that has no service: those of this crate.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unprompt_stream::config::{
    self, DEFAULTS, Http, Invalid, Log, RegistryConfig, RunnerSection, Sections, Telemetry,
};
use unprompt_stream::{KafkaConfig, StreamError};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub kafka: KafkaConfig,
    pub registry: RegistryConfig,
    pub runner: RunnerSection,
    pub http: Http,
    pub log: Log,
    pub telemetry: Telemetry,
}

impl Sections for Config {
    fn check(&self) -> Result<(), Invalid> {
        self.kafka.check()?;
        self.registry.check()?;
        self.runner.check()?;
        self.telemetry.check()
    }
}

/// Loads this crate's defaults, a file, an environment and flags.
pub fn load_with(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Value,
) -> Result<Config, StreamError> {
    config::load_with(DEFAULTS, file, environment, flags)
}
