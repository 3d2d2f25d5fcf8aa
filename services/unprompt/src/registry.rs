//! The schema registry as all parts of the process use it: one client, one memory of what it has answered.

use std::sync::{Arc, OnceLock};

use unprompt_schemas::codec::Codec;
use unprompt_stream::{SchemaRegistry, StreamError, config};

/// Made when it is first needed. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<OnceLock<Made>>);

#[derive(Clone, Debug)]
struct Made {
    client: Option<Arc<SchemaRegistry>>,
    codec: Codec,
}

impl Registry {
    /// How records are written and read: in Confluent framing where a registry is configured.
    pub fn codec(&self, section: &config::Registry) -> Result<Codec, StreamError> {
        Ok(self.made(section)?.codec.clone())
    }

    /// The registry's client, where one is configured.
    pub fn client(&self, section: &config::Registry) -> Result<Option<Arc<SchemaRegistry>>, StreamError> {
        Ok(self.made(section)?.client.clone())
    }

    fn made(&self, section: &config::Registry) -> Result<&Made, StreamError> {
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
