//! Configuration: defaults, then a file, then the environment, then flags. Errors name the key and
//! the layer; secrets cannot be printed.
//!
//! It knows the sections of this crate. Every service owns its section, and the binary composes
//! them: see [`Sections`].

mod code_loading;
mod environment;
mod invalid;
mod kafka;
mod layers;
mod named_brokers;
mod rewritten;
mod runner;
mod secret;
mod secret_files;
mod sections;
mod security;
mod telemetry;
mod unquoted;

pub use code_loading::LOCAL_FILE;
pub use environment::ENVIRONMENT_PREFIX;
pub use invalid::Invalid;
pub use kafka::{KafkaConfig, Profile};
pub use layers::{Sections, load, load_with};
pub use runner::{Delivery, LostOffsets, RunnerConfig, RunnerOverrides, RunnerSection};
pub use secret::Secret;
pub use sections::{Http, Log, LogFormat, RegistryConfig};
pub use security::{Mechanism, Protocol, Security};
pub use telemetry::{OtlpProtocol, Telemetry};

/// The defaults of this crate's sections, as TOML with comments for users.
pub const DEFAULTS: &str = include_str!("config/default.toml");
