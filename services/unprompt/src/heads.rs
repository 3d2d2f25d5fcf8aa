//! The predictor's heads: heads.v1 followed into its store, while it runs.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::bail;
use tokio_util::sync::CancellationToken;
use unprompt_models::encoder;
use unprompt_predictor::HeadStore;
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Head;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{Backoff, InputRecord, TableReader};

use crate::services::Wiring;

/// Delays between tries to read a head while the schema registry is away, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// heads.v1, followed until this is dropped.
#[derive(Debug)]
pub struct Heads {
    pub store: HeadStore,
    /// Why it is no longer followed, where the configuration is to blame.
    fault: Arc<OnceLock<String>>,
    _reader: TableReader,
}

impl Heads {
    /// Follows the topic from its beginning; returns when it has caught up, or with nothing where `stop` came first. A fault of the
    /// configuration cancels `stop`.
    pub async fn follow(wiring: &Wiring, stop: &CancellationToken) -> anyhow::Result<Option<Self>> {
        let (clip, side) = (wiring.context.clip()?, wiring.context.config.models.clip_side);
        let encoder = tokio::task::spawn_blocking(move || encoder::vector_name(&clip, side)).await??;
        let store = HeadStore::new(&encoder);
        let (fault, codec) = (Arc::new(OnceLock::new()), wiring.context.codec()?);
        let (taken, told, stopping) = (store.clone(), fault.clone(), stop.clone());
        let reader = TableReader::start(&wiring.kafka, Topic::Heads, stop.clone(), move |record| {
            if let Err(error) = take_head(&taken, &codec, &record, &stopping) {
                told.get_or_init(|| error.to_string());
                stopping.cancel();
            }
        })?;
        let caught_up = reader.caught_up().await;
        let heads = Self { store, fault, _reader: reader };
        heads.check()?;
        if stop.is_cancelled() {
            return Ok(None);
        }
        caught_up?;
        Ok(Some(heads))
    }

    /// # Errors
    /// Why heads.v1 cannot be followed with this configuration.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.fault.get() {
            Some(fault) => bail!("the predictor cannot read heads.v1: {fault}"),
            None => Ok(()),
        }
    }
}

/// A head that cannot be used is refused aloud, and the one in use stays; an error is the configuration's fault.
fn take_head(
    store: &HeadStore,
    codec: &Codec,
    record: &InputRecord,
    stop: &CancellationToken,
) -> Result<(), SchemaError> {
    let Some(value) = record.value.as_deref() else {
        store.withdraw(&String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()));
        return Ok(());
    };
    match decode_patiently(codec, value, stop) {
        Err(error) if error.is_fatal() => return Err(error),
        Err(error) => refused(&error),
        Ok(head) => store.announce(head).unwrap_or_else(|error| refused(&error)),
    }
    Ok(())
}

/// A schema registry that is away is waited for: a head missed now would be missed until the next start.
fn decode_patiently(codec: &Codec, value: &[u8], stop: &CancellationToken) -> Result<Head, SchemaError> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match codec.decode(value) {
            Err(error) if error.is_transient() && !stop.is_cancelled() => {
                tracing::warn!(%error, "waiting to read an announced head");
                tokio::task::block_in_place(|| std::thread::sleep(backoff.next_delay()));
            }
            decoded => return decoded,
        }
    }
}

fn refused(error: &dyn Display) {
    tracing::warn!(%error, "announced head refused");
}

#[cfg(test)]
mod tests {
    use unprompt_stream::KafkaConfig;
    use unprompt_stream::health::Health;

    use super::*;
    use crate::cli::Global;
    use crate::context::Context;

    fn taken(value: &[u8]) -> Result<(), SchemaError> {
        let record = InputRecord {
            topic: Topic::Heads,
            topic_name: Topic::Heads.base_name().to_owned(),
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: Some(value.to_vec()),
            headers: Vec::new(),
        };
        take_head(&HeadStore::new("tiny@0"), &Codec::single_object(), &record, &CancellationToken::new())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_before_the_heads_are_there_is_no_error() {
        let global =
            Global { config: None, kafka: None, qdrant: None, data_dir: None, json: false, log: None };
        let wiring = Wiring {
            context: Context::load(&global, None, None).unwrap(),
            kafka: KafkaConfig::embedded("127.0.0.1:1"),
            qdrant_url: "http://127.0.0.1:1".into(),
            health: Health::default(),
        };
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(Heads::follow(&wiring, &stop).await.unwrap().is_none());
    }

    #[test]
    fn a_head_that_cannot_be_read_is_passed_over() {
        taken(b"not avro").unwrap();
        // In Confluent framing, without a registry: anybody may write these five bytes.
        taken(&[0, 0, 0, 0, 1]).unwrap();
    }
}
