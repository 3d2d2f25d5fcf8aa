//! librdkafka's settings, in one place, so that limits, waits and pitfalls are settled once.

use std::sync::Once;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use unprompt_schemas::topics::RECORD_MAX_BYTES;

use crate::config::{KafkaConfig, Profile};

/// The size of a fetch response, at most: a few of the largest records.
const FETCH_MAX_BYTES: i32 = 3 * RECORD_MAX_BYTES;
/// Room for protocol framing around the largest record.
const FRAMING_BYTES: i32 = 64 * 1024;
/// The bytes that one partition returns in one fetch, at most; a larger record comes alone
/// (KIP-74).
const PARTITION_FETCH_BYTES: i32 = 4 << 20;
/// The time that the broker may hold a fetch until data arrives; both brokers answer as soon as it
/// does.
const FETCH_WAIT_MS: u32 = 500;

/// The interval of librdkafka's reports of where partitions end, which the lag is computed from.
const STATISTICS_MS: u32 = 1_000;

/// The time that a record waits for others of its partition. A stage's outputs come many at once,
/// so a longer wait would hardly ever gain more.
const LINGER_MS: u32 = 1;

/// The settings that all clients share.
pub(crate) fn client(kafka: &KafkaConfig) -> ClientConfig {
    // Without OpenSSL's exit handler, which would free what librdkafka's threads still use:
    // <https://github.com/openssl/openssl/issues/6214>.
    openssl_sys::init();
    let mut config = ClientConfig::new();
    // A user who sets librdkafka's `debug` wants to read its output.
    let says_more = kafka.properties.contains_key("debug");
    config.set_log_level(if says_more { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning });
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", "unprompt")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000")
        .set("message.max.bytes", (RECORD_MAX_BYTES + FRAMING_BYTES).to_string());
    for (name, value) in kafka.security.properties() {
        config.set(name, value);
    }
    warn_of_exposure(kafka);
    with_properties(config, kafka)
}

/// The settings of a consumer that starts at the beginning if nothing is committed, and
/// commits only when told.
pub(crate) fn consumer(kafka: &KafkaConfig, group: &str) -> ClientConfig {
    let mut config = client(kafka);
    config
        .set("group.id", group)
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.max.bytes", FETCH_MAX_BYTES.to_string())
        .set("max.partition.fetch.bytes", PARTITION_FETCH_BYTES.to_string())
        .set("receive.message.max.bytes", (FETCH_MAX_BYTES + RECORD_MAX_BYTES).to_string())
        .set("fetch.wait.max.ms", FETCH_WAIT_MS.to_string())
        .set("fetch.error.backoff.ms", "100")
        .set("statistics.interval.ms", STATISTICS_MS.to_string())
        .set("session.timeout.ms", session_timeout_ms(kafka.profile).to_string())
        .set("heartbeat.interval.ms", heartbeat_ms(kafka.profile).to_string());
    with_properties(config, kafka)
}

/// The settings of [`consumer`] for a service that holds up to `bytes_in_flight`. librdkafka
/// prefetches half as much, plus one more response from each broker, which is no larger than that
/// or holds a single record.
pub(crate) fn group_consumer(kafka: &KafkaConfig, group: &str, bytes_in_flight: usize) -> ClientConfig {
    let ahead = i32::try_from(bytes_in_flight / 2).unwrap_or(i32::MAX);
    let answer = ahead.clamp(RECORD_MAX_BYTES + FRAMING_BYTES, FETCH_MAX_BYTES);
    let mut config = consumer(kafka, group);
    config
        .set("queued.max.messages.kbytes", (ahead / 1024).max(1).to_string())
        .set("fetch.queue.backoff.ms", "100")
        .set("fetch.max.bytes", answer.to_string());
    with_properties(config, kafka)
}

/// The settings of a producer whose retries neither duplicate nor reorder records.
pub(crate) fn producer(kafka: &KafkaConfig, delivery_timeout_ms: u32) -> ClientConfig {
    let mut config = client(kafka);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("delivery.timeout.ms", delivery_timeout_ms.to_string())
        .set("linger.ms", LINGER_MS.to_string())
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "131072");
    with_properties(config, kafka)
}

/// The settings of a transactional producer under `id`; the broker aborts a transaction that is
/// open for longer than `timeout`.
pub(crate) fn transactional_producer(kafka: &KafkaConfig, id: &str, timeout: Duration) -> ClientConfig {
    let timeout_ms = timeout.as_millis().to_string();
    let mut config = producer(kafka, 0);
    config
        .set("transactional.id", id)
        .set("transaction.timeout.ms", &timeout_ms)
        .set("delivery.timeout.ms", &timeout_ms);
    with_properties(config, kafka)
}

/// Warns of unencrypted credentials, once: a process makes many clients.
fn warn_of_exposure(kafka: &KafkaConfig) {
    static SAID: Once = Once::new();
    if kafka.security.is_exposed(&kafka.brokers) {
        SAID.call_once(|| {
            tracing::warn!(
                brokers = kafka.brokers,
                "the credentials and all records travel unencrypted; set protocol = \"sasl_ssl\" in [kafka.security]"
            );
        });
    }
}

/// Applies the user's own properties, which override ours.
fn with_properties(mut config: ClientConfig, kafka: &KafkaConfig) -> ClientConfig {
    for (name, value) in &kafka.properties {
        config.set(name, value.expose());
    }
    config
}

/// Returns the session timeout. After a hard stop nobody else gets the partitions before it
/// expires. The embedded broker forgets its members when it starts, so there it only has to
/// outlast a busy machine.
fn session_timeout_ms(profile: Profile) -> u32 {
    match profile {
        Profile::Embedded => 20_000,
        Profile::Kafka => 45_000,
    }
}

fn heartbeat_ms(profile: Profile) -> u32 {
    match profile {
        Profile::Embedded => 1_000,
        Profile::Kafka => 3_000,
    }
}
