//! The librdkafka properties that services run with, for clients that need the same settings.
//!
//! They include the user's own properties and secrets: never print them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::KafkaConfig;
use crate::kafka;

/// A producer outside a stage gives up a record after this time.
const DELIVERY_TIMEOUT_MS: u32 = 60_000;

/// Returns the properties of a consumer in `group`.
pub fn consumer(kafka: &KafkaConfig, group: &str) -> BTreeMap<String, String> {
    owned(&kafka::consumer(kafka, group))
}

/// Returns the properties of an idempotent producer.
pub fn producer(kafka: &KafkaConfig) -> BTreeMap<String, String> {
    owned(&kafka::producer(kafka, DELIVERY_TIMEOUT_MS))
}

/// Returns the properties of a transactional producer under `id`; the broker aborts its
/// transactions after `timeout`.
pub fn transactional_producer(kafka: &KafkaConfig, id: &str, timeout: Duration) -> BTreeMap<String, String> {
    owned(&kafka::transactional_producer(kafka, id, timeout))
}

fn owned(config: &ClientConfig) -> BTreeMap<String, String> {
    let pairs = config.config_map().into_iter();
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
