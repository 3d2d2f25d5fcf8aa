//! The catalogue of topics: names, partitions, retention, record limits.

use std::fmt;

use serde::Deserialize;

use crate::SchemaError;

const MIB: i32 = 1024 * 1024;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const FOR_EVER: i64 = -1;

/// The largest encoded picture, in bytes: 20 MiB.
pub const PICTURE_MAX_BYTES: usize = 20 * MIB as usize;
/// The largest record of any topic (a dead letter), in bytes. Producers, consumers and brokers must
/// allow it.
pub const RECORD_MAX_BYTES: i32 = 22 * MIB;
/// The longest topic name that Kafka allows, in characters.
pub const NAME_MAX_CHARS: usize = 249;

/// A topic of the catalogue, without its prefix.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    Prompts,
    Images,
    ImageEmbeddings,
    PromptEmbeddings,
    Heads,
    Predictions,
    DeadLetters,
}

/// The properties that a topic is created with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// The name without a prefix.
    pub name: &'static str,
    pub partitions: i32,
    /// The time that records are kept, in milliseconds; -1 for ever.
    pub retention_ms: i64,
    /// The largest record batch that the topic takes, in bytes.
    pub max_message_bytes: i32,
    /// True if only the newest record of each key is kept.
    pub compacted: bool,
}

impl Topic {
    pub const ALL: [Topic; 7] = [
        Topic::Prompts,
        Topic::Images,
        Topic::ImageEmbeddings,
        Topic::PromptEmbeddings,
        Topic::Heads,
        Topic::Predictions,
        Topic::DeadLetters,
    ];

    /// Returns the name without a prefix, for example `images.v1`.
    pub const fn base_name(self) -> &'static str {
        match self {
            Topic::Prompts => "prompts.v1",
            Topic::Images => "images.v1",
            Topic::ImageEmbeddings => "image-embeddings.v1",
            Topic::PromptEmbeddings => "prompt-embeddings.v1",
            Topic::Heads => "heads.v1",
            Topic::Predictions => "predictions.v1",
            Topic::DeadLetters => "dead-letters.v1",
        }
    }

    /// Returns the properties that the topic is created with.
    pub fn spec(self) -> TopicSpec {
        let (partitions, retention_ms, max_message_bytes) = match self {
            // Prompts and their embeddings are kept, so that an index can be rebuilt from them.
            Topic::Prompts | Topic::PromptEmbeddings => (4, FOR_EVER, 4 * MIB),
            Topic::Images => (4, 7 * DAY_MS, 21 * MIB),
            // The trainer learns from these.
            Topic::ImageEmbeddings => (4, 90 * DAY_MS, 4 * MIB),
            Topic::Heads => (1, FOR_EVER, 4 * MIB),
            Topic::Predictions => (4, 30 * DAY_MS, 4 * MIB),
            Topic::DeadLetters => (4, 30 * DAY_MS, RECORD_MAX_BYTES),
        };
        let compacted = self == Topic::Heads;
        TopicSpec { name: self.base_name(), partitions, retention_ms, max_message_bytes, compacted }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base_name())
    }
}

const fn longest_base_name() -> usize {
    let (mut longest, mut at) = (0, 0);
    while at < Topic::ALL.len() {
        let length = Topic::ALL[at].base_name().len();
        if length > longest {
            longest = length;
        }
        at += 1;
    }
    longest
}

/// The text before every topic's name, verbatim (`team-a.` gives `team-a.images.v1`); empty by
/// default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(String);

impl Prefix {
    /// The longest prefix, in characters: with it, the longest name of the catalogue still fits
    /// Kafka's limit.
    pub const MAX_CHARS: usize = NAME_MAX_CHARS - longest_base_name();

    /// Checks and takes a prefix.
    ///
    /// # Errors
    /// [`SchemaError::Prefix`] for a character that Kafka does not allow in names, or for too many
    /// characters.
    pub fn new(prefix: &str) -> Result<Self, SchemaError> {
        let refuse =
            |reason| Err(SchemaError::Prefix { prefix: prefix.to_owned(), reason, limit: Self::MAX_CHARS });
        if !prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
            return refuse("Kafka does not allow one of its characters");
        }
        if prefix.len() > Self::MAX_CHARS {
            return refuse("topic names would be too long");
        }
        Ok(Self(prefix.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the topic's full name.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.0, topic.base_name())
    }

    /// Returns the topic with this full name; none for a name outside the catalogue or under
    /// another prefix.
    pub fn parse(&self, name: &str) -> Option<Topic> {
        let base = name.strip_prefix(self.as_str())?;
        Topic::ALL.into_iter().find(|topic| topic.base_name() == base)
    }
}

impl TryFrom<String> for Prefix {
    type Error = SchemaError;

    fn try_from(prefix: String) -> Result<Self, SchemaError> {
        Self::new(&prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
