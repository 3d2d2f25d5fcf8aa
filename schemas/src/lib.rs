//! The contract between the services: records, topics, identities, codecs and headers.
//!
//! Everything that two services must agree on is here, and nothing else: no Kafka client, no index, no network. The same
//! contract for other languages is in `avro/` (schemas) and `asyncapi.yaml` (topics, messages, headers).

pub mod cloudevents;
pub mod codec;
mod confluent;
mod datum;
pub mod dead_letter;
mod error;
mod foreign;
pub mod history;
pub mod identity;
mod layout;
pub mod records;
pub mod registry;
pub mod topics;

pub use error::SchemaError;
pub use uuid::Uuid;
