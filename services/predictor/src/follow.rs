//! Follows heads.v1 and updates the store of heads while the predictor runs.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Head;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{Backoff, InputRecord, KafkaConfig, TableReader};

use crate::heads::HeadRequirements;
use crate::{HeadStore, PredictorError};

/// The first and the longest delay between attempts to read a head while the schema registry is
/// unavailable.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// heads.v1, followed until this is dropped.
#[derive(Debug)]
pub struct FollowedHeads {
    pub store: HeadStore,
    /// Why following stopped, if the configuration is at fault.
    fault: Arc<OnceLock<String>>,
    _reader: TableReader,
}

impl FollowedHeads {
    /// Follows the topic from its beginning for heads that meet the requirements.
    ///
    /// Returns when it has caught up, or `None` if `stop` came first. A fault of the configuration
    /// cancels `stop`.
    ///
    /// # Errors
    /// [`PredictorError::Heads`] for a registry that refuses us; [`PredictorError::Stream`] for a
    /// topic that cannot be read.
    pub async fn start(
        kafka: &KafkaConfig,
        codec: Codec,
        requirements: HeadRequirements,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, PredictorError> {
        let (store, fault) = (HeadStore::new(requirements), Arc::new(OnceLock::new()));
        let (announced, found, stopping) = (store.clone(), fault.clone(), stop.clone());
        let reader = TableReader::start(kafka, Topic::Heads, stop.clone(), move |record| {
            // Reads a file, which may be on a slow disk.
            let taken = tokio::task::block_in_place(|| take_head(&announced, &codec, &record, &stopping));
            if let Err(error) = taken {
                found.get_or_init(|| error.to_string());
                stopping.cancel();
            }
        })?;
        tokio::spawn(report_end(reader.ended(), fault.clone(), stop.clone()));
        let caught_up = reader.caught_up().await;
        let heads = Self { store, fault, _reader: reader };
        heads.check()?;
        if stop.is_cancelled() {
            return Ok(None);
        }
        caught_up?;
        Ok(Some(heads))
    }

    /// Checks that heads.v1 can be followed with this configuration.
    ///
    /// # Errors
    /// [`PredictorError::Heads`], with the reason.
    pub fn check(&self) -> Result<(), PredictorError> {
        match self.fault.get() {
            Some(fault) => Err(PredictorError::Heads(fault.clone())),
            None => Ok(()),
        }
    }
}

/// Stops the service if heads.v1 is no longer followed: later heads would be missed silently.
async fn report_end(ended: impl Future<Output = ()>, fault: Arc<OnceLock<String>>, stop: CancellationToken) {
    ended.await;
    if !stop.is_cancelled() {
        fault.get_or_init(|| "heads.v1 is no longer followed; the log says why".to_owned());
        stop.cancel();
    }
}

/// Applies a record of heads.v1 to the store.
///
/// A head that cannot be used is logged, and the one in use stays. An error means that the
/// configuration is at fault.
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
        Ok(head) => announce(store, head),
    }
    Ok(())
}

/// Puts a head in use. A head whose file makes the reader panic is refused like any other.
fn announce(store: &HeadStore, head: Head) {
    match catch_unwind(AssertUnwindSafe(|| store.announce(head))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => refused(&error),
        Err(_) => refused(&"reading it panicked"),
    }
}

/// Decodes a head, waiting while the schema registry is unavailable: a head missed now would be
/// missed until the next start.
fn decode_patiently(codec: &Codec, value: &[u8], stop: &CancellationToken) -> Result<Head, SchemaError> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match codec.decode(value) {
            Err(error) if error.is_transient() && !stop.is_cancelled() => {
                tracing::warn!(%error, "waiting to read an announced head");
                std::thread::sleep(backoff.next_delay());
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
    use super::*;

    fn requirements() -> HeadRequirements {
        let (encoder, minilm) = ("tiny@0".to_owned(), "minilm@0".to_owned());
        HeadRequirements { encoder, dims: 4, minilm, folders: Vec::new() }
    }

    fn taken(value: &[u8]) -> Result<(), SchemaError> {
        let record = InputRecord { value: Some(value.to_vec()), ..InputRecord::new(Topic::Heads) };
        take_head(
            &HeadStore::new(requirements()),
            &Codec::single_object(),
            &record,
            &CancellationToken::new(),
        )
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_before_the_heads_are_loaded_is_not_an_error() {
        let kafka = KafkaConfig::embedded("127.0.0.1:1");
        let stop = CancellationToken::new();
        stop.cancel();
        let heads = FollowedHeads::start(&kafka, Codec::single_object(), requirements(), &stop).await;
        assert!(heads.unwrap().is_none());
    }

    #[test]
    fn an_unreadable_head_is_skipped() {
        taken(b"not avro").unwrap();
        // Confluent framing without a registry: anybody may write these five bytes.
        taken(&[0, 0, 0, 0, 1]).unwrap();
    }
}
