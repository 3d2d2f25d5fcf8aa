//! The errors around a stage. Each message says what to do next.

use std::net::SocketAddr;
use std::path::PathBuf;

use rdkafka::error::KafkaError;
use unprompt_schemas::SchemaError;

/// Replaces a value that may be a secret.
const REDACTED: &str = "[redacted]";

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(
        "a Kafka client cannot be created: {0}; check [kafka.security] and [kafka.properties] in the configuration"
    )]
    Client(#[source] KafkaError),

    #[error(
        "Kafka at {brokers} does not answer: {reason}; check [kafka] brokers, that it is up, and that [kafka.security] protocol is \
         the listener's"
    )]
    Unreachable { brokers: String, reason: String },

    #[error(
        "Kafka at {brokers} rejects our credentials: {reason}; check mechanism, username and password in [kafka.security] (for \
         OAUTHBEARER sasl.oauthbearer.* in [kafka.properties]), and that the user exists there"
    )]
    Credentials { brokers: String, reason: String },

    #[error(
        "no TLS connection to Kafka at {brokers}: {reason}; check in [kafka.security] that protocol is the listener's, that ca_file \
         holds the authority that signed the broker's certificate, and certificate_file and key_file where the broker asks for \
         them; the broker's certificate must name the host in [kafka] brokers, unless verify_hostname is off"
    )]
    Tls { brokers: String, reason: String },

    #[error("topic {topic} could not be created: {reason}; create it by hand or grant CREATE on the cluster")]
    TopicNotCreated { topic: String, reason: String },

    #[error(
        "topic {topic} is missing on {brokers}; run a service once with the right to create topics, or create it"
    )]
    TopicMissing { topic: String, brokers: String },

    #[error(
        "topic {topic} was deleted and created again while it was read: its id was {was} and is {now}; read it again from its \
         first record"
    )]
    TopicReplaced { topic: String, was: String, now: String },

    #[error("the stage could not be started: {0}")]
    StageLoad(String),

    #[error("stage {stage} stopped: {reason}; nothing of its last batch was committed")]
    StageFatal { stage: String, reason: String },

    #[error(
        "the consumer of group {group} cannot continue: {source}; no uncommitted record is lost, restart the service"
    )]
    Consumer {
        group: String,
        #[source]
        source: KafkaError,
    },

    #[error(
        "a record could not be written to {topic}: {source}; where the broker refuses, grant WRITE on the topic, and where it finds the \
         timestamp invalid, set the clock of this machine"
    )]
    Delivery {
        topic: String,
        #[source]
        source: KafkaError,
    },

    #[error(
        "a record of {size_bytes} bytes exceeds the limit of {topic}, {limit_bytes} bytes; raise max.message.bytes of the topic or send a smaller record"
    )]
    TooLarge { topic: String, size_bytes: usize, limit_bytes: usize },

    #[error(
        "Kafka at {brokers} refuses transactions under {id}: {source}; grant WRITE on that transactional id, or, where the broker \
         has no transactions, set delivery = \"at-least-once\" in [runner]"
    )]
    NoTransactions {
        brokers: String,
        id: String,
        /// Boxed, so that results stay small.
        #[source]
        source: Box<KafkaError>,
    },

    #[error(
        "another process has taken over the transactions of {id}: {source}; this one stops, and its uncommitted records stay \
         invisible. Give every process of a service a [kafka] instance of its own, or none"
    )]
    Fenced {
        id: String,
        #[source]
        source: KafkaError,
    },

    #[error(
        "{rejected} of the last {records} records of {service} were rejected, the last for: {reason}. It stops before the topic is \
         drained into the dead letters, and nothing of this batch was committed; fix the cause, or raise dead_letter_ratio in \
         [runner] to let them go there"
    )]
    DeadLetterFlood { service: String, rejected: usize, records: usize, reason: String },

    #[error(
        "the offsets of group {group} are gone, but {topic} has its outputs: Kafka forgets the offsets of a group that has had no member \
         for offsets.retention.minutes (a week by default), and those in a topic that is deleted, so which records are processed is not known. \
         Start it with --from latest \
         for new records only, or with --from earliest to write all outputs again"
    )]
    OffsetsLost { group: String, topic: String },

    #[error("the records of {topic} could not be deleted: {source}; grant DELETE on the topic")]
    NotDeleted {
        topic: String,
        #[source]
        source: KafkaError,
    },

    #[error("reading {topic} failed: {source}")]
    Read {
        topic: String,
        #[source]
        source: KafkaError,
    },

    #[error(transparent)]
    Schema(#[from] SchemaError),

    #[error("no answer within {waited_ms} ms while {doing}; check that the broker is up and not overloaded")]
    Timeout { doing: &'static str, waited_ms: u64 },

    #[error("stopped while {0}")]
    Stopped(&'static str),

    #[error("cannot listen on {address}: {source}; choose another port, or 0 for any")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },

    #[error("data directory {} is in use by {holder}; stop that process or choose another --data-dir", path.display())]
    DataDirInUse { path: PathBuf, holder: String },

    #[error("data directory {}: {source}", path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("a thread cannot be started: {0}; the machine is out of memory or threads")]
    Thread(#[source] std::io::Error),

    #[error(
        "{what} of {service} has ended unexpectedly; its log line says why. Nothing uncommitted is lost: start the service again, and report it"
    )]
    Died { service: String, what: &'static str },

    #[error("configuration: {0}")]
    Config(String),

    #[error("telemetry: {0}")]
    Telemetry(String),
}

impl StreamError {
    /// Wraps librdkafka's error about our settings without the values: any of them may be a secret,
    /// whatever its name.
    pub(crate) fn client(error: KafkaError) -> Self {
        Self::Client(match error {
            KafkaError::ClientConfig(code, description, key, value) => {
                let description = match value.is_empty() {
                    true => description,
                    false => description.replace(&value, REDACTED),
                };
                KafkaError::ClientConfig(code, description, key, REDACTED.to_owned())
            }
            error => error,
        })
    }
}
