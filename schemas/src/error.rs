//! The one error of this crate. Every message says what to do next.

use crate::history::Fingerprint;
use crate::registry::RegistryError;

/// A fault in a record, a header, or the configuration that names topics.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error(
        "the value is not Avro (it starts with {start}): send {record} in Avro's single-object encoding (C3 01 and the schema's \
         fingerprint) or in Confluent framing (00 and the schema's id)"
    )]
    NotAvro { record: &'static str, start: String },
    #[error(
        "no known schema has the fingerprint {fingerprint}: write {record} with a schema of schemas/avro/history/{record}/, \
         or update this service if the writer is newer"
    )]
    UnknownFingerprint { record: &'static str, fingerprint: Fingerprint },
    #[error("the value is a {found}, not a {expected}: it was published to the wrong topic")]
    WrongRecord { expected: &'static str, found: String },
    #[error(
        "the {record} ends at byte {length}, inside {field}: the value was cut off, publish it again in full"
    )]
    Truncated { record: &'static str, field: String, length: usize },
    #[error("{count} bytes follow the end of the {record}: publish exactly one encoded record per message")]
    TrailingBytes { record: &'static str, count: usize },
    #[error("the {record} cannot be read at {field}: {reason}; encode it with the schema its header names")]
    Malformed { record: &'static str, field: String, reason: String },
    #[error(
        "the {record} takes {length} bytes encoded, and {limit} is its topic's limit: shorten its texts or vectors"
    )]
    TooLarge { record: &'static str, length: usize, limit: usize },
    /// The record is at fault: anybody may write these five bytes. If the registry was left out of
    /// the configuration by mistake, a flood of these errors shows it.
    #[error(
        "the value is in Confluent framing (schema id {id}), and no schema registry is configured: give the registry's address, or \
         let producers use Avro's single-object encoding"
    )]
    RegistryNeeded { id: u32 },
    #[error(
        "schema id {id} of the registry cannot be read as {record}: {reason}; register a schema compatible with it"
    )]
    IncompatibleSchema { record: &'static str, id: u32, reason: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the prompt is empty or only white space: send its text")]
    EmptyPrompt,
    #[error("the prompt is neither Avro nor UTF-8 text (byte {position} is not UTF-8): send UTF-8")]
    PromptNotUtf8 { position: usize },
    #[error("the prompt is {length} bytes long, and {limit} is the limit: shorten it")]
    PromptTooLong { length: usize, limit: usize },
    #[error("the prompt has {length} bytes of {what}, and {limit} is the limit: shorten the {what}")]
    TooLong { what: &'static str, length: usize, limit: usize },
    #[error(
        "the topic prefix {prefix:?} is not usable ({reason}): use at most {limit} of the characters a-z A-Z 0-9 . _ -"
    )]
    Prefix { prefix: String, reason: &'static str, limit: usize },
    #[error("the header {name} is {value:?}, which is not {expected}")]
    Header { name: String, value: String, expected: &'static str },
    #[error("the header {name} is missing: {hint}")]
    MissingHeader { name: &'static str, hint: &'static str },
    #[error("the header {name} occurs {count} times: send it once")]
    RepeatedHeader { name: String, count: usize },
}

impl SchemaError {
    /// Returns a short stable code for dead letters and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAvro { .. } => "not-avro",
            Self::UnknownFingerprint { .. } => "unknown-schema",
            Self::WrongRecord { .. } => "wrong-record",
            Self::Truncated { .. } => "truncated-record",
            Self::TrailingBytes { .. } => "trailing-bytes",
            Self::Malformed { .. } => "malformed-record",
            Self::TooLarge { .. } => "record-too-large",
            Self::RegistryNeeded { .. } => "registry-needed",
            Self::IncompatibleSchema { .. } => "incompatible-schema",
            Self::Registry(RegistryError::UnknownId { .. }) => "unknown-schema",
            Self::Registry(RegistryError::Unusable { .. }) => "incompatible-schema",
            Self::Registry(_) => "registry-failed",
            Self::EmptyPrompt => "empty-prompt",
            Self::PromptNotUtf8 { .. } => "prompt-not-utf8",
            Self::PromptTooLong { .. } | Self::TooLong { .. } => "prompt-too-long",
            Self::Prefix { .. } => "bad-prefix",
            Self::Header { .. } => "bad-header",
            Self::MissingHeader { .. } => "missing-header",
            Self::RepeatedHeader { .. } => "repeated-header",
        }
    }

    /// Returns whether the configuration is wrong, so that the service must stop: no record is to
    /// blame.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Prefix { .. } => true,
            Self::Registry(error) => error.is_fatal(),
            _ => false,
        }
    }

    /// Returns whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::Unreachable { .. }))
    }
}

impl RegistryError {
    fn is_fatal(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Incompatible { .. } | Self::NotRegistered { .. } => true,
            Self::Unreachable { .. } | Self::UnknownId { .. } | Self::Unusable { .. } => false,
        }
    }
}
