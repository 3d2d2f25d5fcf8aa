//! The schema registry as all parts of the process use it: one client, one memory of what it has answered.

use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, Prediction, PromptEmbedding, Record};
use unprompt_schemas::topics::Prefix;
use unprompt_stream::{SchemaRegistry, StreamError, config};

use crate::cli::ServiceName;
use crate::services::{Wiring, name_of};
use crate::waiting::patiently;

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

/// Asks for what `service` will need before it takes a record. A registry that is away is waited for, one that refuses ends the
/// start. False where `stop` came first.
///
/// # Errors
/// What the registry refuses, or what of its configuration cannot be used.
pub async fn ready(service: ServiceName, wiring: &Wiring, stop: &CancellationToken) -> anyhow::Result<bool> {
    let (codec, prefix) = (wiring.context.codec()?, &wiring.kafka.prefix);
    let Some(client) = wiring.context.registry()? else { return Ok(true) };
    let asking = || {
        let (codec, client, prefix) = (codec.clone(), client.clone(), prefix.clone());
        let asked = tokio::task::spawn_blocking(move || ask(service, &codec, &client, &prefix));
        async { Ok(asked.await.context("asking the schema registry")??) }
    };
    let may_pass =
        |error: &anyhow::Error| error.downcast_ref().is_some_and(|error: &SchemaError| error.is_transient());
    let answered = patiently(service, "the schema registry", wiring, stop, may_pass, asking).await;
    answered.with_context(|| format!("{} did not start", name_of(service)))
}

fn ask(
    service: ServiceName,
    codec: &Codec,
    client: &SchemaRegistry,
    prefix: &Prefix,
) -> Result<(), SchemaError> {
    fn prepare<R: Record>(codec: &Codec, prefix: &Prefix) -> Result<(), SchemaError> {
        codec.prepare::<R>(&prefix.name(R::TOPIC))
    }
    match service {
        ServiceName::TextEncoder => prepare::<PromptEmbedding>(codec, prefix),
        ServiceName::ImageEncoder => prepare::<ImageEmbedding>(codec, prefix),
        ServiceName::Predictor => prepare::<Prediction>(codec, prefix),
        // They write no Avro, and read what others do.
        ServiceName::Generator | ServiceName::Indexer => Ok(client.check()?),
    }
}
