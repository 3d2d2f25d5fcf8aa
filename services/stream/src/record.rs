//! Records as stages see them: owned bytes, headers and a position, without any Kafka client.

use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::Headers;
use unprompt_schemas::topics::Topic;

use crate::source_time;

/// A record read from a topic of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// The topic in the catalogue.
    pub topic: Topic,
    /// The topic's name on the broker, prefix included.
    pub topic_name: String,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, by the producer's clock.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone: it deletes the record of the key.
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

impl InputRecord {
    /// The time of the first record of the chain that led to this one, in milliseconds since the
    /// epoch: from the header `unprompt-source-time`, or of the record itself. `None` if neither is
    /// after 1970.
    pub fn source_time_ms(&self) -> Option<i64> {
        source_time::of(self)
    }

    /// A record without key, value and headers, at the first offset of partition 0 of the topic
    /// without a prefix: the base of a record that was not read from Kafka.
    pub fn new(topic: Topic) -> Self {
        Self {
            topic,
            topic_name: topic.base_name().to_owned(),
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Headers::new(),
        }
    }

    /// Returns the broker's name of another catalogue topic, under this record's prefix.
    pub fn topic_name_of(&self, topic: Topic) -> String {
        let prefix = self.topic_name.strip_suffix(self.topic.base_name()).unwrap_or_default();
        format!("{prefix}{}", topic.base_name())
    }

    /// Returns the key if it is a UUID in text, the form of the catalogue's identities.
    pub fn key_as_uuid(&self) -> Option<Uuid> {
        let key = self.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        key.and_then(|key| Uuid::parse_str(key).ok())
    }

    /// Bytes of its key, value and headers.
    pub fn size_bytes(&self) -> usize {
        content_bytes(self.key.as_deref(), self.value.as_deref(), &self.headers)
    }

    /// Bytes that it takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.size_bytes() + overhead_bytes(&self.headers)
    }
}

/// A record to write to a topic of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord {
    pub topic: Topic,
    /// Determines the partition (murmur2, as in Java's clients); without a key the
    /// partition is random.
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

impl OutputRecord {
    /// Bytes of its key, value and headers.
    pub fn size_bytes(&self) -> usize {
        content_bytes(self.key.as_deref(), self.value.as_deref(), &self.headers)
    }

    /// Bytes that it takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.size_bytes() + overhead_bytes(&self.headers)
    }
}

/// The memory that a record takes besides its content.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// The memory that a header takes besides its name and value: a million empty ones fit into a
/// record of three megabytes.
const HEADER_OVERHEAD_BYTES: usize = 96;

fn overhead_bytes(headers: &Headers) -> usize {
    RECORD_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES * headers.len()
}

fn content_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) -> usize {
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers
}
