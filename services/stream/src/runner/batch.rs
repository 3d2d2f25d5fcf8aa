//! A batch between its dispatch and its acknowledgement, and the records its outcomes become.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use unprompt_schemas::topics::Topic;

use super::delivery::{Delivered, FailedSend, Outgoing};
use super::stage_thread::LostPartitions;
use crate::dead_letter::{dead_letter, slim_dead_letter, too_large};
use crate::events::RecordRejected;
use crate::producer::SendError;
use crate::traces::RecordSpans;
use crate::{InputRecord, Outcome, OutputRecord, Rejection, Service, lost_offsets, source_time};

/// A batch that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Batch {
    pub records: Arc<Vec<InputRecord>>,
    pub with_stage: bool,
    /// The partitions that were lost while the stage has it.
    pub lost: LostPartitions,
    /// Sends in progress.
    pub sends: usize,
    pub written: usize,
    pub bytes_written: usize,
    pub dead_letters: usize,
    /// The bytes of its outputs, counted until the batch is finished.
    pub bytes_held: usize,
    /// The trace spans of its records.
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
            lost: LostPartitions::default(),
            sends: 0,
            written: 0,
            bytes_written: 0,
            dead_letters: 0,
            bytes_held: 0,
            spans,
            rejections: BTreeMap::new(),
            slimmed: BTreeSet::new(),
        }
    }

    /// Splits off the first records with everything known about them: the stage has their outcomes
    /// while it works on the others, or they are written before the others. They hold no bytes yet.
    pub fn split_first(&mut self, count: usize) -> Self {
        let (first, rest) = self.records.split_at(count);
        let mut first = Self::new(Arc::new(first.to_vec()), self.spans.split_first(count));
        self.records = Arc::new(rest.to_vec());
        first.with_stage = self.with_stage;
        first.sends = self.sends;
        let rejections = self.rejections.split_off(&count).into_iter();
        let rejections = rejections.map(|(input, rejection)| (input - count, rejection)).collect();
        first.rejections = std::mem::replace(&mut self.rejections, rejections);
        let slimmed = self.slimmed.split_off(&count).into_iter().map(|input| input - count).collect();
        first.slimmed = std::mem::replace(&mut self.slimmed, slimmed);
        first
    }

    /// Counts the records that were written.
    pub fn note(&mut self, delivered: &Delivered) {
        self.written += delivered.records - delivered.failures.len();
        self.bytes_written += delivered.bytes;
        let failed = delivered.failures.iter().filter(|failure| failure.topic == Topic::DeadLetters).count();
        self.dead_letters += delivered.dead_letters - failed;
    }
}

impl Batch {
    /// Counts the records that a transaction has made visible. Rejections whose dead letters
    /// were removed from the transaction are dropped: their partition was revoked, and its
    /// new owner makes them.
    pub fn note_committed(&mut self, outgoing: &Outgoing) {
        let letters = outgoing.records.iter().filter(|(_, record)| record.topic == Topic::DeadLetters);
        let written: BTreeSet<usize> = letters.map(|(input, _)| *input).collect();
        self.rejections.retain(|input, _| written.contains(input));
        self.written += outgoing.records.len();
        self.bytes_written += outgoing.bytes();
        self.dead_letters += outgoing.dead_letters();
    }

    /// Reports the batch's dead letters. Call it only once they are written: a batch that is given
    /// up or rolled back is processed again, and its dead letters would be counted twice.
    pub fn report_rejections(&self, service: &'static str) {
        for (index, rejection) in &self.rejections {
            RecordRejected { service, input: &self.records[*index], rejection }.emit();
        }
    }

    /// Replaces the outputs of every input that had one too large with a dead letter. False if even
    /// a dead letter without its value was too large.
    pub fn replace(
        &mut self,
        service: &'static str,
        failures: &[FailedSend],
        outgoing: &mut Outgoing,
    ) -> bool {
        let Some(letters) = self.instead_of(service, failures) else { return false };
        let failed: BTreeSet<usize> = letters.iter().map(|(input, _)| *input).collect();
        outgoing.records.retain(|(input, _)| !failed.contains(input));
        outgoing.records.extend(letters);
        true
    }

    /// Returns the records to write for the outcomes, each with the index of its input. Records of
    /// partitions that were revoked meanwhile (`holds` returns false) are left to the new owner.
    pub fn outgoing(
        &mut self,
        service: &Service,
        group: &str,
        outcomes: Vec<Outcome>,
        holds: impl Fn(&InputRecord) -> bool,
    ) -> Vec<(usize, OutputRecord)> {
        let inputs = self.records.clone();
        let mut records = Vec::with_capacity(inputs.len());
        self.spans.processed();
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                _ if !holds(&inputs[index]) => self.spans.left(index),
                Outcome::Outputs(mut outputs) => {
                    let time = source_time::of(&inputs[index]).filter(|_| service.keeps_time);
                    for output in &mut outputs {
                        source_time::stamp(output, time);
                        lost_offsets::sign(output, group);
                    }
                    records.extend(outputs.into_iter().map(|output| (index, output)));
                }
                Outcome::Rejected(rejection) => records.extend(self.reject(service.name, index, rejection)),
            }
        }
        self.spans.stamp(&mut records);
        records
    }

    /// Returns what to write instead of records that were too large: the dead letter of their
    /// input, or a dead letter without its value. `None` if even that was too large.
    pub fn instead_of(
        &mut self,
        service: &'static str,
        failures: &[FailedSend],
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

    /// Rejects an input and returns its dead letter; `None` if the input was rejected before.
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

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn rejected() -> (Batch, Outgoing) {
        let record = |offset| InputRecord { offset, ..InputRecord::new(Topic::Images) };
        let mut batch = Batch::new(Arc::new((0..2).map(record).collect()), RecordSpans::default());
        let outcome = || Outcome::Rejected(Rejection::new("bad", "send another"));
        let records = batch.outgoing(
            &Service::new("tested", &[], &[]),
            "unprompt-tested",
            vec![outcome(), outcome()],
            |_| true,
        );
        (batch, Outgoing { batch: 0, records })
    }

    /// Returns the number of dead letters counted while `job` runs.
    fn counted(job: impl FnOnce()) -> Option<u64> {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, job);
        let text = recorder.handle().render();
        let line = text.lines().find(|line| line.starts_with("unprompt_dead_letters_total{"))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn dead_letters_of_a_reprocessed_batch_are_counted_once() {
        let count = counted(|| {
            // The first attempt loses its transaction, and the batch with it.
            drop(rejected());
            let (mut batch, outgoing) = rejected();
            batch.note_committed(&outgoing);
            batch.report_rejections("tested");
        });
        assert_eq!(count, Some(2));
    }

    #[test]
    fn a_dead_letter_of_a_revoked_partition_is_not_counted() {
        let count = counted(|| {
            let (mut batch, mut outgoing) = rejected();
            outgoing.records.retain(|(input, _)| *input == 1);
            batch.note_committed(&outgoing);
            batch.report_rejections("tested");
        });
        assert_eq!(count, Some(1));
    }
}
