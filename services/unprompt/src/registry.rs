//! The schema registry as all parts of the process use it: one client, one memory of what it has answered.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, Prediction, PromptEmbedding, Record};
use unprompt_schemas::topics::Prefix;
use unprompt_stream::{Backoff, SchemaRegistry, StreamError, config};

use crate::cli::ServiceName;
use crate::services::{Wiring, name_of};

/// Delays between asking for a registry that is away, from the first to the longest; each round tries more than once.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

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
    let (name, prefix) = (name_of(service), &wiring.kafka.prefix);
    let codec = wiring.context.codec()?;
    let Some(client) = wiring.context.registry()? else { return Ok(true) };
    // Known to be not ready while it waits.
    wiring.health.service(&format!("{prefix}{name}"));
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let (codec, client, prefix) = (codec.clone(), client.clone(), prefix.clone());
        let asking = tokio::task::spawn_blocking(move || ask(service, &codec, &client, &prefix));
        match asking.await.context("asking the schema registry")? {
            Ok(()) => return Ok(true),
            Err(error) if error.is_transient() => {
                tracing::warn!(service = name, %error, "waiting for the schema registry");
            }
            Err(error) => return Err(error).with_context(|| format!("{name} did not start")),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = stop.cancelled() => return Ok(false),
        }
    }
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
