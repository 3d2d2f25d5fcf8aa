//! The session's part in transactions: what goes into the next one, and what follows from the
//! end of the last one.

use std::collections::BTreeMap;
use std::time::Instant;

use super::super::RunSummary;
use super::super::delivery::{FailedSend, Outgoing};
use super::super::transactions::{Ended, Transacted};
use super::{OutputWriter, Session, SessionEnd};
use crate::events::TransactionEnded;
use crate::offsets::{BatchId, TopicPartition};
use crate::producer::SendError;

impl Session<'_> {
    /// Begins a transaction if one is due and none is in progress. It holds the waiting outputs
    /// within the limits, without those of revoked partitions.
    pub(super) fn transact_if_due(&mut self, now: Instant, summary: &mut RunSummary) {
        loop {
            let OutputWriter::ExactlyOnce(transactions) = &mut self.writer else { return };
            if !transactions.is_due(now) {
                return;
            }
            self.divide_front();
            let OutputWriter::ExactlyOnce(transactions) = &mut self.writer else { return };
            let mut bundle = transactions.take(self.transaction_size.bytes());
            for outgoing in &mut bundle {
                let (id, offsets) = (outgoing.batch, &self.offsets);
                let Some(batch) = self.batches.get(&id) else { continue };
                outgoing
                    .records
                    .retain(|(input, _)| offsets.holds(id, TopicPartition::from(&batch.records[*input])));
            }
            let ids: Vec<BatchId> = bundle.iter().map(|outgoing| outgoing.batch).collect();
            let offsets = self.offsets.after(&ids);
            // All its partitions were revoked: the records belong to the new owners.
            if offsets.is_empty() && bundle.iter().all(|outgoing| outgoing.records.is_empty()) {
                self.finish_all(&bundle, summary);
                continue;
            }
            match self.consumer.for_transaction(&offsets) {
                Some((offsets, group)) => transactions.begin(bundle, offsets, group),
                None => transactions.again(bundle, false),
            }
        }
    }

    /// Divides the oldest batch that waits if its outputs are too large for one transaction,
    /// between two of its records.
    fn divide_front(&mut self) {
        let OutputWriter::ExactlyOnce(transactions) = &mut self.writer else { return };
        let Some(front) = transactions.front() else { return };
        let Some(batch) = self.batches.get_mut(&front.batch) else { return };
        let inputs = front.inputs_within(self.transaction_size.bytes());
        if inputs >= batch.records.len() {
            return;
        }
        let id = self.next_batch;
        self.next_batch += 1;
        let mut first = batch.split_first(inputs);
        self.offsets.split(front.batch, id, &first.records, &batch.records);
        let outgoing = front.split_first(inputs, id);
        first.bytes_held = outgoing.memory_bytes();
        batch.bytes_held = batch.bytes_held.saturating_sub(first.bytes_held);
        self.batches.insert(id, first);
        transactions.push_front(outgoing);
    }

    pub(super) fn on_transacted(
        &mut self,
        done: Transacted,
        summary: &mut RunSummary,
    ) -> Result<(), SessionEnd> {
        let service = self.stage.service.name;
        let Transacted { mut bundle, ended, took } = done;
        let records = bundle.iter().map(|outgoing| outgoing.records.len()).sum();
        let told =
            |outcome, reason: &str| TransactionEnded { service, outcome, records, took, reason }.emit();
        match ended {
            Ended::Committed => {
                told("committed", "");
                self.transaction_size.committed(took);
                self.finish_all(&bundle, summary);
                // The transaction has committed the offsets, so they need no commit of their own.
                self.offsets.take_dirty();
                if let OutputWriter::ExactlyOnce(transactions) = &mut self.writer {
                    transactions.committed();
                }
                Ok(())
            }
            Ended::Aborted { failures, reason, late } => {
                told("aborted", &reason);
                if late {
                    self.transaction_size.late(bytes_of(&bundle));
                }
                let at_once = self.replace_failed(&mut bundle, failures)?;
                if let OutputWriter::ExactlyOnce(transactions) = &mut self.writer {
                    transactions.again(bundle, at_once);
                }
                Ok(())
            }
            Ended::Lost(reason) => {
                told("lost", &reason);
                // Its outcome may be unknown because it was too large for its time.
                self.transaction_size.late(bytes_of(&bundle));
                Err(SessionEnd::Restart(format!("a transaction's outcome is not known: {reason}")))
            }
            Ended::TopicsChanged(changes) => {
                told("aborted", "topics were deleted");
                Err(self.topics_changed(changes))
            }
            Ended::Fatal(error) => {
                told("refused", &error.to_string());
                Err(SessionEnd::Failed(error))
            }
        }
    }

    fn finish_all(&mut self, bundle: &[Outgoing], summary: &mut RunSummary) {
        for outgoing in bundle {
            if let Some(batch) = self.batches.get_mut(&outgoing.batch) {
                batch.note_committed(outgoing);
            }
            self.finish(outgoing.batch, summary);
        }
    }

    /// Replaces records that were too large with dead letters; returns whether any was replaced.
    fn replace_failed(
        &mut self,
        bundle: &mut [Outgoing],
        failures: Vec<(BatchId, FailedSend)>,
    ) -> Result<bool, SessionEnd> {
        let mut by_batch: BTreeMap<BatchId, Vec<FailedSend>> = BTreeMap::new();
        for (batch, failure) in failures {
            by_batch.entry(batch).or_default().push(failure);
        }
        let service = self.stage.service.name;
        let mut replaced = false;
        for outgoing in bundle {
            let failures = by_batch.remove(&outgoing.batch).unwrap_or_default();
            let Some(batch) = self.batches.get_mut(&outgoing.batch) else { continue };
            if !batch.replace(service, &failures, outgoing) {
                return Err(self.no_dead_letter_fits());
            }
            let held = std::mem::replace(&mut batch.bytes_held, outgoing.memory_bytes());
            self.in_flight.add_outputs(batch.bytes_held);
            self.in_flight.release_outputs(held);
            replaced |= failures.iter().any(|failure| matches!(failure.error, SendError::TooLarge { .. }));
        }
        Ok(replaced)
    }
}

fn bytes_of(bundle: &[Outgoing]) -> usize {
    bundle.iter().map(Outgoing::bytes).sum()
}
