//! A topic read as its records, by whoever follows no group: trainers, evaluations.
//!
//! It must not know what they mean.

use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Record;

use crate::config::KafkaConfig;
use crate::{StreamError, read_to_end};

/// Reads the topic of `R` from the beginning to the end as it is now, and hands on every record that can be read. One that cannot is
/// passed over: the service that consumes it has sent it to the dead letters.
///
/// # Errors
///
/// As [`read_to_end`]; [`StreamError::Schema`] where no record is to blame, such as a schema registry that is away.
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
