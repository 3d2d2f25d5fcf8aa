//! The interface of a schema registry, and a registry in memory.
//!
//! Must not know a network: a client of a real registry implements [`Registry`] elsewhere.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::fmt::Debug;

/// Returns the subject of a topic's values under Confluent's topic name strategy. `topic_name` is
/// the full name.
pub fn subject(topic_name: &str) -> String {
    format!("{topic_name}-value")
}

/// A schema registry after Confluent's model: schemas by id and ids by schema.
///
/// An answer may take a while, so codecs cache it. Codecs call from any thread.
pub trait Registry: Debug + Send + Sync {
    /// Returns the id of this schema (JSON) under this subject. Registers a new schema if that is
    /// allowed.
    fn id_of(&self, subject: &str, schema: &str) -> Result<u32, RegistryError>;
    /// Returns the schema (JSON) with this id.
    fn schema_of(&self, id: u32) -> Result<String, RegistryError>;
}

/// The reason why a registry gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "the schema registry is unreachable ({reason}): check [registry] url and that it runs; the request is repeated"
    )]
    Unreachable { reason: String },
    #[error(
        "the schema registry refused {what} ({reason}): check the credentials in [registry] and their rights"
    )]
    Refused { what: String, reason: String },
    #[error(
        "the schema registry refused the schema of {record} under {subject} ({reason}): it accepts only compatible changes; see \
         `unprompt schemas check`, and which release registered the newest version"
    )]
    Incompatible { subject: String, record: String, reason: String },
    #[error(
        "the schema registry has no schema under {subject} that equals this release's {record}, and [registry] register is false: \
         register it (`unprompt schemas register`, or what `unprompt schemas show {record}` prints), or set register = true"
    )]
    NotRegistered { subject: String, record: String },
    #[error(
        "the schema registry has no schema with the id {id}: write with a schema that is registered there, and publish again"
    )]
    UnknownId { id: u32 },
    #[error(
        "the schema with the id {id} in the registry is not used here ({reason}): write with a self-contained Avro schema"
    )]
    Unusable { id: u32, reason: String },
}

/// A registry in the memory of the process.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    ids: Mutex<HashMap<String, u32>>,
}

impl MemoryRegistry {
    fn ids(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.ids.lock()
    }
}

impl Registry for MemoryRegistry {
    fn id_of(&self, _subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let mut ids = self.ids();
        let next = ids.len() as u32 + 1;
        Ok(*ids.entry(schema.to_owned()).or_insert(next))
    }

    fn schema_of(&self, id: u32) -> Result<String, RegistryError> {
        let ids = self.ids();
        let found = ids.iter().find(|(_, known)| **known == id);
        found.map(|(schema, _)| schema.clone()).ok_or(RegistryError::UnknownId { id })
    }
}
