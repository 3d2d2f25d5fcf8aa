//! Why an input was not accepted: because of the record itself, or because the whole
//! batch cannot continue.

use unprompt_schemas::SchemaError;

use crate::{BatchError, Outcome, OutputRecord, Rejection};

/// The reason why a stage could not take an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The record is at fault: it goes to the dead letters, and its neighbours are processed.
    Record(Rejection),
    /// The service is at fault, for example because its schema registry refuses it. No record is
    /// rejected for that.
    Batch(BatchError),
}

impl Refusal {
    /// Makes a refusal of a bad record; see [`Rejection::new`].
    pub fn record(code: &'static str, reason: impl Into<String>) -> Self {
        Self::Record(Rejection::new(code, reason))
    }

    /// Turns an input's outputs or refusal into its outcome, unless the batch as a whole fails.
    ///
    /// # Errors
    ///
    /// The error of [`Refusal::Batch`].
    pub(crate) fn outcome(made: Result<Vec<OutputRecord>, Self>) -> Result<Outcome, BatchError> {
        match made {
            Ok(outputs) => Ok(Outcome::Outputs(outputs)),
            Err(Self::Record(rejection)) => Ok(Outcome::Rejected(rejection)),
            Err(Self::Batch(error)) => Err(error),
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Record(rejection)
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
    use unprompt_schemas::registry::RegistryError;

    use super::*;

    #[test]
    fn a_registry_refusal_is_fatal_for_the_batch() {
        let refused = RegistryError::Refused { what: "schema id 1".into(), reason: "401".into() };
        let refused = Refusal::from(SchemaError::from(refused));
        assert!(matches!(refused, Refusal::Batch(BatchError::Fatal(_))), "{refused:?}");
    }

    #[test]
    fn confluent_framing_without_a_registry_is_a_dead_letter() {
        let codec = unprompt_schemas::codec::Codec::single_object();
        let confluent = codec.decode::<unprompt_schemas::records::Prompt>(&[0, 0, 0, 0, 1]).unwrap_err();
        let refused = Refusal::from(confluent);
        assert!(matches!(refused, Refusal::Record(Rejection { code: "registry-needed", .. })), "{refused:?}");
    }

    #[test]
    fn an_unreachable_registry_is_transient_and_a_too_large_output_is_rejected() {
        let away = SchemaError::from(RegistryError::Unreachable { reason: "refused".into() });
        assert!(matches!(Refusal::outcome(Err(away.into())), Err(BatchError::Transient(_))));
        let too_large = SchemaError::TooLarge { record: "Prediction", length: 9, limit: 8 };
        let outcome = Refusal::outcome(Err(too_large.into())).unwrap();
        assert!(matches!(outcome, Outcome::Rejected(Rejection { code: "record-too-large", .. })));
    }
}
