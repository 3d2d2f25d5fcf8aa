//! A batch between its dispatch and its acknowledgement, and the records its outcomes become.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use unprompt_schemas::topics::Topic;

use super::delivery::{Delivered, Failure, Outgoing};
use crate::dead_letter::{dead_letter, slim_dead_letter, too_large};
use crate::events::RecordRejected;
use crate::producer::SendError;
use crate::traces::RecordSpans;
use crate::{InputRecord, Outcome, OutputRecord, Rejection};

/// A batch that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Batch {
    pub records: Arc<Vec<InputRecord>>,
    pub with_stage: bool,
    /// Sends under way.
    pub sends: usize,
    pub written: usize,
    pub bytes_written: usize,
    pub dead_letters: usize,
    /// What its records are traced by.
    pub spans: RecordSpans,
    /// By the index of the input.
    rejections: BTreeMap<usize, Rejection>,
    /// Inputs whose dead letter was sent without its value.
    slimmed: BTreeSet<usize>,
}

impl Batch {
    pub fn new(records: Arc<Vec<InputRecord>>, spans: RecordSpans) -> Self {
        Self {
            records,
            with_stage: true,
            sends: 0,
            written: 0,
            bytes_written: 0,
            dead_letters: 0,
            spans,
            rejections: BTreeMap::new(),
            slimmed: BTreeSet::new(),
        }
    }

    /// Counts what was written.
    pub fn note(&mut self, delivered: &Delivered) {
        self.written += delivered.records - delivered.failures.len();
        self.bytes_written += delivered.bytes;
        let failed = delivered.failures.iter().filter(|failure| failure.topic == Topic::DeadLetters).count();
        self.dead_letters += delivered.dead_letters - failed;
    }
}

impl Batch {
    /// Counts what a transaction has made visible.
    pub fn note_committed(&mut self, outgoing: &Outgoing) {
        self.written += outgoing.records.len();
        self.bytes_written += outgoing.bytes();
        self.dead_letters += outgoing.dead_letters();
    }

    /// Puts dead letters in place of the outputs of inputs some of which were too large. False, where even a dead letter
    /// without its value was.
    pub fn replace(&mut self, service: &'static str, failures: &[Failure], outgoing: &mut Outgoing) -> bool {
        let Some(letters) = self.instead_of(service, failures) else { return false };
        let failed: BTreeSet<usize> = letters.iter().map(|(input, _)| *input).collect();
        outgoing.records.retain(|(input, _)| !failed.contains(input));
        outgoing.records.extend(letters);
        true
    }

    /// The records to write for the outcomes, each with the index of its input; those of partitions that have
    /// gone meanwhile (`holds` says no) are left to the new owner.
    pub fn outgoing(
        &mut self,
        service: &'static str,
        outcomes: Vec<Outcome>,
        holds: impl Fn(&InputRecord) -> bool,
    ) -> Vec<(usize, OutputRecord)> {
        let inputs = self.records.clone();
        let mut records = Vec::with_capacity(inputs.len());
        self.spans.processed();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                _ if !holds(&inputs[index]) => self.spans.left(index),
                Outcome::Outputs(outputs) => {
                    records.extend(outputs.into_iter().map(|output| (index, output)))
                }
                Outcome::Rejected(rejection) => records.extend(self.reject(service, index, rejection)),
            }
        }
        self.spans.stamp(&mut records);
        records
    }

    /// What to write instead of records that were too large: the dead letter of their input, or a dead letter
    /// without its value. None, where even that did not fit.
    pub fn instead_of(
        &mut self,
        service: &'static str,
        failures: &[Failure],
    ) -> Option<Vec<(usize, OutputRecord)>> {
        let mut letters = Vec::new();
        for failure in failures {
            let SendError::TooLarge { size_bytes, limit_bytes } = failure.error else { continue };
            let topic = failure.topic.base_name();
            match failure.topic {
                Topic::DeadLetters => letters.push(self.slim(service, failure.input)?),
                _ => letters.extend(self.reject(
                    service,
                    failure.input,
                    too_large(topic, size_bytes, limit_bytes),
                )),
            }
        }
        self.spans.stamp(&mut letters);
        Some(letters)
    }

    /// The dead letter of an input, once.
    fn reject(
        &mut self,
        service: &'static str,
        index: usize,
        rejection: Rejection,
    ) -> Option<(usize, OutputRecord)> {
        let input = &self.records[index];
        if self.rejections.contains_key(&index) {
            return None;
        }
        RecordRejected { service, input, rejection: &rejection }.emit();
        let letter = dead_letter(service, input, &rejection);
        self.spans.rejected(index, &rejection);
        self.rejections.insert(index, rejection);
        Some((index, letter))
    }

    fn slim(&mut self, service: &'static str, index: usize) -> Option<(usize, OutputRecord)> {
        if !self.slimmed.insert(index) {
            return None;
        }
        let rejection = self.rejections.get(&index)?;
        Some((index, slim_dead_letter(service, &self.records[index], rejection)))
    }
}
