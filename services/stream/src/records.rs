//! Reads a topic as typed records, for readers that belong to no group: trainers and evaluations.
//!
//! It must not know what the records mean.

use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Record;

use crate::config::KafkaConfig;
use crate::{StreamError, read_to_end};

/// Reads the topic of `R` from the beginning to its current end, and hands every readable
/// record to `f`. Unreadable records are skipped: the service that consumes them has sent them
/// to the dead letters.
///
/// # Errors
///
/// As [`read_to_end`]; [`StreamError::Schema`] if no record is to blame, for example if the
/// schema registry is away.
pub async fn read_records<R: Record>(
    kafka: &KafkaConfig,
    codec: &Codec,
    mut f: impl FnMut(R),
) -> Result<(), StreamError> {
    let mut failed = None;
    read_to_end(kafka, &[R::TOPIC], |record| {
        let Some(value) = record.value.as_deref().filter(|_| failed.is_none()) else { return };
        match codec.decode_readable(value) {
            Ok(Some(read)) => f(read),
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
    })
    .await?;
    failed.map_or(Ok(()), |error| Err(StreamError::Schema(error)))
}
