//! Configuration: the embedded defaults, then a file, then the environment, then flags; secrets unprintable.
//!
//! It knows every service's settings as plain values; it must not know what the services do with them.

mod claim_check;
mod environment;
mod kafka;
mod layers;
mod named_brokers;
mod runner;
mod secret;
mod secret_files;
mod sections;
mod security;
mod telemetry;
mod unquoted;

pub use claim_check::{ClaimCheck, S3};
pub use environment::ENVIRONMENT_PREFIX;
pub use kafka::{KafkaConfig, Profile};
pub use layers::{LOCAL_FILE, load, load_with};
pub use runner::{Delivery, RunnerConfig, RunnerOverrides, RunnerSection};
pub use secret::Secret;
pub use sections::{
    Config, Embedded, Generator, Http, Images, Index, Log, LogFormat, Models, Predictor, Registry,
};
pub use security::{Mechanism, Protocol, Security};
pub use telemetry::{OtlpProtocol, Telemetry};
