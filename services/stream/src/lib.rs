//! Runs a stage on Kafka: batching, delivery, dead letters, configuration, telemetry, health, and a broker
//! in this process for one machine.
//!
//! It knows topics and bytes; it must not know what a record means, any network, or the index.

pub mod config;
mod error;
mod kafka;
mod record;
mod stage;

pub use config::{KafkaConfig, Profile, RunnerConfig, Secret};
pub use error::StreamError;
pub use record::{InputRecord, OutputRecord};
pub use stage::{BatchError, Outcome, Rejection, Stage};
