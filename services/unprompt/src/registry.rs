//! The schema registry for all parts of the process, which share one client and its cache.

use std::sync::{Arc, OnceLock};

use unprompt_schemas::codec::Codec;
use unprompt_stream::{SchemaRegistry, StreamError, config};

/// The client and the codec, created at first use. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SharedRegistry(Arc<OnceLock<Made>>);

#[derive(Clone, Debug)]
struct Made {
    client: Option<Arc<SchemaRegistry>>,
    codec: Codec,
}

impl SharedRegistry {
    /// Returns the codec for records: Confluent framing if a registry is configured.
    pub fn codec(&self, section: &config::RegistryConfig) -> Result<Codec, StreamError> {
        Ok(self.made(section)?.codec.clone())
    }

    /// Returns the registry's client, if a registry is configured.
    pub fn client(
        &self,
        section: &config::RegistryConfig,
    ) -> Result<Option<Arc<SchemaRegistry>>, StreamError> {
        Ok(self.made(section)?.client.clone())
    }

    fn made(&self, section: &config::RegistryConfig) -> Result<&Made, StreamError> {
        if let Some(made) = self.0.get() {
            return Ok(made);
        }
        let client = SchemaRegistry::new(section)?.map(Arc::new);
        let codec = match &client {
            Some(client) => Codec::confluent(client.clone()),
            None => Codec::single_object(),
        };
        Ok(self.0.get_or_init(|| Made { client, codec }))
    }
}
