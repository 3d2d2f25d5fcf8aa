//! Records as stages see them: bytes, headers and a position, owned, free of any Kafka client.

use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::Headers;
use unprompt_schemas::topics::Topic;

/// A record read from a topic of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// Which topic of the catalogue.
    pub topic: Topic,
    /// The topic's name on the broker, prefix included.
    pub topic_name: String,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, by the producer's clock.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone: it deletes what the key names.
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

impl InputRecord {
    /// The name on the broker of another topic of the catalogue, under this record's prefix.
    pub fn topic_name_of(&self, topic: Topic) -> String {
        let prefix = self.topic_name.strip_suffix(self.topic.base_name()).unwrap_or_default();
        format!("{prefix}{}", topic.base_name())
    }

    /// The key, where it is a UUID in text: an identity of the catalogue.
    pub fn key_as_uuid(&self) -> Option<Uuid> {
        let key = self.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        key.and_then(|key| Uuid::parse_str(key).ok())
    }

    /// Bytes the record holds in memory: key, value and headers.
    pub fn size_bytes(&self) -> usize {
        content_bytes(self.key.as_deref(), self.value.as_deref(), &self.headers)
    }
}

/// A record to be written to a topic of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord {
    pub topic: Topic,
    /// Decides the partition (murmur2, as Java's clients do); without a key the partition is random.
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

impl OutputRecord {
    /// Bytes the record holds in memory: key, value and headers.
    pub fn size_bytes(&self) -> usize {
        content_bytes(self.key.as_deref(), self.value.as_deref(), &self.headers)
    }
}

fn content_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) -> usize {
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers
}
