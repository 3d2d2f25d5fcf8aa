//! The contract between the services: records, topics, identities, codecs and headers.
//!
//! This crate holds everything that two services must agree on, and nothing else: no Kafka client,
//! no index, no network. The same contract for other languages is in `avro/` (schemas) and
//! `asyncapi.yaml` (topics, messages, headers).

mod avro_reader;
pub mod cloudevents;
pub mod codec;
mod confluent;
mod datum;
pub mod dead_letter;
mod error;
mod foreign;
mod headers;
pub mod history;
pub mod identity;
mod record;
pub mod records;
pub mod registry;
pub mod topics;

pub use error::SchemaError;
pub use uuid::Uuid;
