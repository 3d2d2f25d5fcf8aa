//! The headers of dead-letters.v1: where a record came from and why it was rejected. The record's
//! key, value and own headers stay unchanged.

use crate::SchemaError;
use crate::headers::Headers;

/// The names of the headers.
pub mod names {
    /// The prefix of all names here.
    pub const PREFIX: &str = "unprompt-dead-letter-";
    /// The full name of the record's topic.
    pub const TOPIC: &str = "unprompt-dead-letter-topic";
    pub const PARTITION: &str = "unprompt-dead-letter-partition";
    pub const OFFSET: &str = "unprompt-dead-letter-offset";
    /// The timestamp of the rejected record, in milliseconds since the Unix epoch. The dead
    /// letter's own timestamp is the time of the rejection.
    pub const TIMESTAMP: &str = "unprompt-dead-letter-timestamp";
    /// The service that rejected the record.
    pub const SERVICE: &str = "unprompt-dead-letter-service";
    /// A short stable code, for example `truncated-record`.
    pub const CODE: &str = "unprompt-dead-letter-code";
    /// The fault and its remedy, in words for people.
    pub const ERROR: &str = "unprompt-dead-letter-error";
    /// Optional: marks a dead letter without the record's key, value and headers. With them it was
    /// too large for the topic, or had more than
    /// [`FORWARDED_MAX`](crate::cloudevents::FORWARDED_MAX) headers.
    pub const VALUE_OMITTED: &str = "unprompt-dead-letter-value-omitted";
}

/// The longest error text that is sent, in bytes.
pub const ERROR_MAX_BYTES: usize = 4096;

/// The origin of a rejected record and the reason for its rejection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetter {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub service: String,
    pub code: String,
    pub error: String,
}

impl DeadLetter {
    /// Returns the record's own headers, then these. Drops the headers of an earlier rejection,
    /// which a record has if it was published again.
    pub fn to_headers(&self, own: &Headers) -> Headers {
        let described = [
            (names::TOPIC, self.topic.clone()),
            (names::PARTITION, self.partition.to_string()),
            (names::OFFSET, self.offset.to_string()),
            (names::TIMESTAMP, self.timestamp_ms.to_string()),
            (names::SERVICE, self.service.clone()),
            (names::CODE, self.code.clone()),
            (names::ERROR, shortened(&self.error).to_owned()),
        ];
        let described = described.map(|(name, text)| (name.to_owned(), text.into_bytes()));
        own_headers(own).into_iter().chain(described).collect()
    }

    /// Reads the headers of a dead letter.
    ///
    /// # Errors
    /// For a header that is missing, not UTF-8, or not a number where one is expected.
    pub fn parse(headers: &Headers) -> Result<Self, SchemaError> {
        Ok(Self {
            topic: text(headers, names::TOPIC)?,
            partition: number(headers, names::PARTITION)?,
            offset: number(headers, names::OFFSET)?,
            timestamp_ms: number(headers, names::TIMESTAMP)?,
            service: text(headers, names::SERVICE)?,
            code: text(headers, names::CODE)?,
            error: text(headers, names::ERROR)?,
        })
    }
}

/// Returns the headers that the record had before it was rejected, as needed to publish it again.
pub fn own_headers(headers: &Headers) -> Headers {
    headers.iter().filter(|(name, _)| !is_name(name)).cloned().collect()
}

/// Returns whether this is a header of a dead letter.
pub fn is_name(name: &str) -> bool {
    name.starts_with(names::PREFIX)
}

fn shortened(error: &str) -> &str {
    &error[..error.floor_char_boundary(ERROR_MAX_BYTES)]
}

fn text(headers: &Headers, name: &'static str) -> Result<String, SchemaError> {
    let (_, value) = headers
        .iter()
        .find(|(known, _)| known == name)
        .ok_or(SchemaError::MissingHeader { name, hint: "only records of dead-letters.v1 are read here" })?;
    str::from_utf8(value)
        .map(str::to_owned)
        .map_err(|_| bad(name, String::from_utf8_lossy(value).into_owned(), "UTF-8 text"))
}

fn number<T: std::str::FromStr>(headers: &Headers, name: &'static str) -> Result<T, SchemaError> {
    let text = text(headers, name)?;
    text.parse().map_err(|_| bad(name, text, "a whole number"))
}

fn bad(name: &str, value: String, expected: &'static str) -> SchemaError {
    SchemaError::Header { name: name.to_owned(), value, expected }
}
