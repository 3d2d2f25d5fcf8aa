//! Reads a topic as typed records, for readers that belong to no group: trainers and evaluations.
//!
//! It must not know what the records mean.

use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Record;

use crate::config::KafkaConfig;
use crate::{StreamError, read_to_end};

/// A record of a keyed topic, or the deletion of its key.
#[derive(Clone, Debug)]
pub enum TableChange<R> {
    Written(R),
    /// The key of a record without a value.
    Deleted(Vec<u8>),
}

/// Reads the topic of `R` from the beginning to its current end, and hands every readable record to
/// `f`, without the deletions. Unreadable records are skipped: the service that consumes them has
/// sent them to the dead letters.
///
/// # Errors
///
/// As [`read_to_end`]; [`StreamError::Schema`] if no record is to blame, for example if the
/// schema registry is unavailable.
pub async fn read_records<R: Record>(
    kafka: &KafkaConfig,
    codec: &Codec,
    mut f: impl FnMut(R),
) -> Result<(), StreamError> {
    read_changes(kafka, codec, |change| match change {
        TableChange::Written(record) => f(record),
        TableChange::Deleted(_) => {}
    })
    .await
}

/// Reads the topic of `R` as [`read_records`] does, with the deletions, in order within a key.
///
/// # Errors
///
/// As [`read_records`].
pub async fn read_changes<R: Record>(
    kafka: &KafkaConfig,
    codec: &Codec,
    mut f: impl FnMut(TableChange<R>),
) -> Result<(), StreamError> {
    let mut failed = None;
    read_to_end(kafka, &[R::TOPIC], |record| {
        if failed.is_some() {
            return;
        }
        match record.value.as_deref().map(|value| codec.decode_readable(value)) {
            Some(Ok(Some(read))) => f(TableChange::Written(read)),
            Some(Ok(None)) => {}
            Some(Err(error)) => failed = Some(error),
            None => f(TableChange::Deleted(record.key.unwrap_or_default())),
        }
    })
    .await?;
    failed.map_or(Ok(()), |error| Err(StreamError::Schema(error)))
}
