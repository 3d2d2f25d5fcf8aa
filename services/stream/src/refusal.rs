//! Why an input was not taken: for what it is, or because the whole batch cannot go on.

use unprompt_schemas::SchemaError;

use crate::{BatchError, Rejection};

/// Why a stage could not take an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The record is at fault: it goes to the dead letters, its neighbours are processed.
    Record(Rejection),
    /// The service is: a missing schema registry, say. No record may pay for that.
    Batch(BatchError),
}

impl Refusal {
    /// The record is at fault; see [`Rejection::new`].
    pub fn record(code: &'static str, reason: impl Into<String>) -> Self {
        Self::Record(Rejection::new(code, reason))
    }

    /// Parts the inputs that were taken from those rejected, in order, unless the batch as a whole fails.
    ///
    /// # Errors
    ///
    /// The first refusal that concerns the batch.
    pub fn part<T>(
        taken: impl IntoIterator<Item = Result<T, Self>>,
    ) -> Result<Vec<Result<T, Rejection>>, BatchError> {
        let parted = taken.into_iter().map(|input| match input {
            Ok(input) => Ok(Ok(input)),
            Err(Self::Record(rejection)) => Ok(Err(rejection)),
            Err(Self::Batch(error)) => Err(error),
        });
        parted.collect()
    }
}

impl From<SchemaError> for Refusal {
    fn from(error: SchemaError) -> Self {
        match (error.is_fatal(), error.is_transient()) {
            (true, _) => Self::Batch(BatchError::Fatal(error.to_string())),
            (_, true) => Self::Batch(BatchError::Transient(error.to_string())),
            _ => Self::record(error.code(), error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_registry_stops_the_batch_and_a_bad_record_only_itself() {
        let bad = Refusal::record("bad", "it is bad");
        let parted = Refusal::part([Ok(1), Err(bad.clone()), Ok(2)]).unwrap();
        assert_eq!((parted[0].clone(), parted[2].clone()), (Ok(1), Ok(2)));
        assert!(parted[1].is_err());
        let codec = unprompt_schemas::codec::Codec::single_object();
        let confluent = codec.decode::<unprompt_schemas::records::Prompt>(&[0, 0, 0, 0, 1, 2]).unwrap_err();
        assert!(matches!(Refusal::part([Ok(1), Err(confluent.into()), Err(bad)]), Err(BatchError::Fatal(_))));
    }
}
