//! The steps that stages share: parse every record, process the good ones together, answer in the
//! order of the records.
//!
//! It must not know what a record means.

use crate::{BatchError, InputRecord, Outcome, OutputRecord, Refusal};

/// The result of parsing one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// An input that still needs processing.
    Input(T),
    /// The record's outputs, known without processing; may be empty.
    Outputs(Vec<OutputRecord>),
}

/// A batch whose records are parsed: the inputs to process, and the outcomes already known.
#[derive(Debug)]
pub struct ParsedBatch<'a, T> {
    /// One for each record of the batch.
    slots: Vec<Slot<'a>>,
    /// One for each [`Slot::Waits`], in order.
    inputs: Vec<T>,
}

#[derive(Debug)]
enum Slot<'a> {
    Settled(Outcome),
    Waits(&'a InputRecord),
}

impl<'a, T> ParsedBatch<'a, T> {
    /// Parses every record of the batch with `parse`.
    ///
    /// # Errors
    /// The first [`Refusal::Batch`].
    pub fn parse(
        batch: &'a [InputRecord],
        parse: impl FnMut(&'a InputRecord) -> Result<Parsed<T>, Refusal>,
    ) -> Result<Self, BatchError> {
        Self::of(batch, batch.iter().map(parse))
    }

    /// Makes a batch whose records were parsed elsewhere; `parsed` has one result for
    /// each record, in order.
    ///
    /// # Errors
    /// The first [`Refusal::Batch`]; [`BatchError::Fatal`] if the numbers differ.
    pub fn of(
        batch: &'a [InputRecord],
        parsed: impl IntoIterator<Item = Result<Parsed<T>, Refusal>>,
    ) -> Result<Self, BatchError> {
        let mut this = Self { slots: Vec::with_capacity(batch.len()), inputs: Vec::new() };
        let mut records = batch.iter();
        for parsed in parsed {
            let record =
                records.next().ok_or_else(|| mismatch("a record", this.slots.len() + 1, batch.len()))?;
            this.slots.push(match parsed {
                Ok(Parsed::Input(input)) => {
                    this.inputs.push(input);
                    Slot::Waits(record)
                }
                Ok(Parsed::Outputs(outputs)) => Slot::Settled(Outcome::Outputs(outputs)),
                Err(Refusal::Record(rejection)) => Slot::Settled(Outcome::Rejected(rejection)),
                Err(Refusal::Batch(error)) => return Err(error),
            });
        }
        match this.slots.len() == batch.len() {
            true => Ok(this),
            false => Err(mismatch("a record", this.slots.len(), batch.len())),
        }
    }

    /// Returns the inputs to process, in the order of their records.
    pub fn inputs(&self) -> &[T] {
        &self.inputs
    }

    /// Returns the outcome of every record, in order, from one answer for each input.
    ///
    /// # Errors
    /// [`BatchError::Fatal`] if there are more or fewer answers than inputs: an answer for the
    /// wrong record would be worse than none. The first [`Refusal::Batch`] of `output`.
    pub fn outcomes<A>(
        self,
        answers: impl IntoIterator<Item = A>,
        mut output: impl FnMut(&InputRecord, T, A) -> Result<Vec<OutputRecord>, Refusal>,
    ) -> Result<Vec<Outcome>, BatchError> {
        let answers: Vec<A> = answers.into_iter().collect();
        if answers.len() != self.inputs.len() {
            return Err(mismatch("an input", answers.len(), self.inputs.len()));
        }
        let mut answered = self.inputs.into_iter().zip(answers);
        let outcome = |slot| match slot {
            Slot::Settled(outcome) => Ok(outcome),
            Slot::Waits(record) => {
                let (input, answer) = answered.next().ok_or_else(|| mismatch("an input", 0, 1))?;
                Refusal::outcome(output(record, input, answer))
            }
        };
        self.slots.into_iter().map(outcome).collect()
    }
}

fn mismatch(what: &str, answers: usize, wanted: usize) -> BatchError {
    BatchError::Fatal(format!(
        "got {answers} answers but expected {wanted}, one for {what} each; a model or server \
         answered incorrectly, so nothing in the batch is written"
    ))
}

#[cfg(test)]
mod tests {
    use unprompt_schemas::topics::Topic;

    use super::*;
    use crate::Rejection;

    fn record(offset: i64) -> InputRecord {
        InputRecord { offset, ..InputRecord::new(Topic::Prompts) }
    }

    fn output(offset: i64) -> OutputRecord {
        let key = Some(offset.to_string().into_bytes());
        OutputRecord { topic: Topic::PromptEmbeddings, key, value: None, headers: Vec::new() }
    }

    /// Odd offsets are inputs, 2 has its output already, 4 is bad.
    fn parse(record: &InputRecord) -> Result<Parsed<i64>, Refusal> {
        match record.offset {
            2 => Ok(Parsed::Outputs(vec![output(2)])),
            4 => Err(Refusal::record("bad", "it is bad")),
            offset => Ok(Parsed::Input(offset)),
        }
    }

    #[test]
    fn answers_go_to_their_records_in_order() {
        let batch: Vec<InputRecord> = (1..=5).map(record).collect();
        let parsed = ParsedBatch::parse(&batch, parse).unwrap();
        assert_eq!(parsed.inputs(), [1, 3, 5]);
        let outcomes = parsed
            .outcomes(["a", "b", "c"], |record, input, answer| {
                assert_eq!((record.offset, answer), (input, ["a", "b", "c"][input as usize / 2]));
                Ok(vec![output(input)])
            })
            .unwrap();
        assert_eq!(outcomes[1], Outcome::Outputs(vec![output(2)]));
        assert_eq!(outcomes[3], Outcome::Rejected(Rejection::new("bad", "it is bad")));
        assert_eq!(outcomes[4], Outcome::Outputs(vec![output(5)]));
        assert_eq!(outcomes.len(), 5);
    }

    #[test]
    fn a_missing_or_surplus_answer_is_fatal() {
        let batch: Vec<InputRecord> = (1..=5).map(record).collect();
        for answers in [2, 4] {
            let parsed = ParsedBatch::parse(&batch, parse).unwrap();
            let outcomes = parsed.outcomes(0..answers, |_, _, _| Ok(Vec::new()));
            assert!(matches!(outcomes, Err(BatchError::Fatal(_))), "{answers} answers");
        }
        let too_few = ParsedBatch::of(&batch, batch[..4].iter().map(parse));
        assert!(matches!(too_few, Err(BatchError::Fatal(_))));
        let too_many = ParsedBatch::of(&batch[..4], batch.iter().map(parse));
        assert!(matches!(too_many, Err(BatchError::Fatal(_))));
    }

    #[test]
    fn a_refused_output_rejects_only_its_record() {
        let batch = [record(1), record(3)];
        let parsed = ParsedBatch::parse(&batch, parse).unwrap();
        let outcomes = parsed.outcomes([(), ()], |record, _, ()| match record.offset {
            1 => Err(Refusal::record("too-large", "it is too large")),
            _ => Ok(Vec::new()),
        });
        let outcomes = outcomes.unwrap();
        assert!(matches!(&outcomes[0], Outcome::Rejected(Rejection { code: "too-large", .. })));
        assert_eq!(outcomes[1], Outcome::Outputs(Vec::new()));
    }

    #[test]
    fn a_transient_refusal_of_one_record_fails_the_whole_batch() {
        let batch = [record(1), record(3)];
        let away = || Refusal::Batch(BatchError::Transient("the registry is unreachable".into()));
        let parsed = ParsedBatch::parse(&batch, |record| match record.offset {
            1 => parse(record),
            _ => Err(away()),
        });
        assert!(matches!(parsed, Err(BatchError::Transient(_))));
    }
}
