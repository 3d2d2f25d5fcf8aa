//! What a codec needs of a schema registry, and one in memory.
//!
//! Must not know a network: a client of a real registry implements [`Registry`] elsewhere.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Schemas by id and ids by schema, as Confluent's schema registry keeps them. Codecs keep the answers: each question is asked once.
pub trait Registry: Debug + Send + Sync {
    /// The id of this schema (JSON) under this subject; registers it where it is new.
    fn id_of(&self, subject: &str, schema: &str) -> Result<u32, RegistryError>;
    /// The schema (JSON) with this id.
    fn schema_of(&self, id: u32) -> Result<String, RegistryError>;
}

/// Why a registry gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "the schema registry is out of reach ({reason}): trying again; check its address and whether it runs"
    )]
    Unreachable { reason: String },
    #[error(
        "the schema registry refused {subject} ({reason}): check the credentials and the subject's compatibility level"
    )]
    Refused { subject: String, reason: String },
    #[error(
        "the schema registry has no schema with the id {id}: the record was written with another registry"
    )]
    UnknownId { id: u32 },
}

/// A registry that lives and dies with the process.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    ids: Mutex<HashMap<String, u32>>,
}

impl MemoryRegistry {
    fn ids(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
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
