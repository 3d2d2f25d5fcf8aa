//! The file that lists the collections and aliases of a data directory.

use std::collections::BTreeMap;

use prost::Message;
use qdrant_client::qdrant::CollectionConfig;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format version that this build writes and reads.
pub(super) const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Catalogue {
    pub format: u32,
    pub collections: BTreeMap<String, CatalogueEntry>,
    /// Collection names by alias.
    pub aliases: BTreeMap<String, String>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self { format: FORMAT, collections: BTreeMap::new(), aliases: BTreeMap::new() }
    }
}

impl Catalogue {
    /// Returns whether a collection or an alias has this name.
    pub fn knows(&self, name: &str) -> bool {
        self.collections.contains_key(name) || self.aliases.contains_key(name)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CatalogueEntry {
    /// The name of the collection's folder.
    pub folder: Uuid,
    /// Qdrant's `CollectionConfig` message in hexadecimal, with all defaults spelled out.
    config: String,
}

impl CatalogueEntry {
    pub fn new(folder: Uuid, config: &CollectionConfig) -> Self {
        let mut entry = Self { folder, config: String::new() };
        entry.set_config(config);
        entry
    }

    pub fn set_config(&mut self, config: &CollectionConfig) {
        self.config = config.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
    }

    /// Decodes the configuration; None if the text is damaged.
    pub fn config(&self) -> Option<CollectionConfig> {
        let digits = self.config.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
        CollectionConfig::decode(bytes.as_slice()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrant_client::qdrant::HnswConfigDiff;

    #[test]
    fn a_configuration_round_trips_through_json() {
        let hnsw_config = Some(HnswConfigDiff { m: Some(24), ..Default::default() });
        let config = CollectionConfig { hnsw_config, ..Default::default() };
        let entry = CatalogueEntry::new(Uuid::nil(), &config);
        let text = serde_json::to_string(&entry).unwrap();
        let read: CatalogueEntry = serde_json::from_str(&text).unwrap();
        assert_eq!(read.config(), Some(config));
    }

    #[test]
    fn a_damaged_configuration_is_detected() {
        let mut entry = CatalogueEntry::new(Uuid::nil(), &CollectionConfig::default());
        entry.config = "zz".into();
        assert_eq!(entry.config(), None);
    }
}
