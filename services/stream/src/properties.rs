//! The librdkafka properties that services run with, for whoever wants a client of the same settings.
//!
//! The user's own are among them, secrets and all: never print them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::KafkaConfig;
use crate::kafka;

/// After this a producer outside a stage gives a record up.
const DELIVERY_TIMEOUT_MS: u32 = 60_000;

/// Those of a consumer in `group`.
pub fn consumer(kafka: &KafkaConfig, group: &str) -> BTreeMap<String, String> {
    owned(&kafka::consumer(kafka, group))
}

/// Those of an idempotent producer.
pub fn producer(kafka: &KafkaConfig) -> BTreeMap<String, String> {
    owned(&kafka::producer(kafka, DELIVERY_TIMEOUT_MS))
}

/// Those of a producer of transactions under `id`, which the broker aborts by itself after `timeout`.
pub fn transactional_producer(kafka: &KafkaConfig, id: &str, timeout: Duration) -> BTreeMap<String, String> {
    owned(&kafka::transactional_producer(kafka, id, timeout))
}

fn owned(config: &ClientConfig) -> BTreeMap<String, String> {
    let pairs = config.config_map().into_iter();
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
