//! librdkafka clients, made in one place so that limits, waits and traps are settled once.

use rdkafka::ClientConfig;

use crate::config::{KafkaConfig, Profile};

/// Headers a dead letter carries above the record it wraps, and framing.
pub(crate) const HEADROOM_BYTES: usize = 1 << 20;

/// The largest record that any client of ours sends or takes, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = (20 << 20) + 2 * HEADROOM_BYTES;

/// What every client shares.
pub(crate) fn common(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", "unprompt")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000");
    config
}

/// The user's own properties, last, so that they win.
pub(crate) fn with_properties(mut config: ClientConfig, kafka: &KafkaConfig) -> ClientConfig {
    for (name, value) in &kafka.properties {
        config.set(name, value.expose());
    }
    config
}

/// How long a fetch may wait at the broker. The embedded one sleeps half of it whatever arrives.
pub(crate) fn fetch_wait_ms(profile: Profile) -> u32 {
    match profile {
        Profile::Embedded => 10,
        Profile::Kafka => 100,
    }
}
