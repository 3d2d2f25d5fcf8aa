//! The queue between the loop and the producer: sends batches in order and reports when all records
//! of one are acknowledged.

use std::collections::BTreeMap;

use futures::future::join_all;
use tokio::sync::mpsc;
use unprompt_schemas::topics::Topic;

use super::Event;
use crate::OutputRecord;
use crate::offsets::BatchId;
use crate::producer::{Producer, SendError};

/// Records of a batch to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub batch: BatchId,
    /// Each record with the index of its input in the batch.
    pub records: Vec<(usize, OutputRecord)>,
}

impl Outgoing {
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(_, record)| record.size_bytes()).sum()
    }

    /// Takes the outputs of the first inputs, for the batch `first`; the inputs of the others are
    /// counted from there.
    pub fn split_first(&mut self, inputs: usize, first: BatchId) -> Self {
        let (taken, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.records).into_iter().partition(|(input, _)| *input < inputs);
        self.records = rest.into_iter().map(|(input, record)| (input - inputs, record)).collect();
        Self { batch: first, records: taken }
    }

    /// Returns how many of the first inputs have outputs of at most `bytes` together; one at least.
    pub fn inputs_within(&self, bytes: usize) -> usize {
        let mut of_inputs: BTreeMap<usize, usize> = BTreeMap::new();
        for (input, record) in &self.records {
            *of_inputs.entry(*input).or_default() += record.size_bytes();
        }
        let mut total = 0;
        let first_over = of_inputs.into_iter().find(|(_, size)| {
            total += size;
            total > bytes
        });
        first_over.map_or(usize::MAX, |(input, _)| input.max(1))
    }

    /// Bytes that the records take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.records.iter().map(|(_, record)| record.memory_bytes()).sum()
    }

    pub fn dead_letters(&self) -> usize {
        self.records.iter().filter(|(_, record)| record.topic == Topic::DeadLetters).count()
    }
}

/// An [`Outgoing`] of which every record is acknowledged or has failed.
#[derive(Debug)]
pub(super) struct Delivered {
    pub batch: BatchId,
    pub records: usize,
    /// The number of dead letters among them.
    pub dead_letters: usize,
    pub bytes: usize,
    pub failures: Vec<FailedSend>,
}

/// A record that was not written.
#[derive(Debug)]
pub(super) struct FailedSend {
    /// The index of its input in the batch.
    pub input: usize,
    pub topic: Topic,
    pub error: SendError,
}

/// The queue of batches that wait for the producer. Dropping it ends the sending task.
#[derive(Debug)]
pub(super) struct DeliveryQueue {
    queue: mpsc::UnboundedSender<Outgoing>,
    producer: Producer,
}

impl DeliveryQueue {
    pub fn start(producer: Producer, events: mpsc::UnboundedSender<Event>) -> Self {
        let (queue, mut inbox) = mpsc::unbounded_channel::<Outgoing>();
        let sender = producer.clone();
        tokio::spawn(async move {
            while let Some(outgoing) = inbox.recv().await {
                send(&sender, outgoing, &events).await;
            }
        });
        Self { queue, producer }
    }

    /// Sends a batch after all those handed over before. The loop's limit on batches in
    /// flight bounds the queue.
    pub fn send(&self, outgoing: Outgoing) {
        if self.queue.send(outgoing).is_err() {
            tracing::error!("the producer task is gone");
        }
    }

    /// Returns whether the sending task has ended, although the session has not.
    pub fn is_dead(&self) -> bool {
        self.queue.is_closed()
    }

    /// Gives up what is not acknowledged.
    pub fn purge(&self) {
        self.producer.purge();
    }
}

/// Queues every record in order. A task of its own waits for the acknowledgements.
async fn send(producer: &Producer, outgoing: Outgoing, events: &mpsc::UnboundedSender<Event>) {
    let (batch, records) = (outgoing.batch, outgoing.records.len());
    let (bytes, dead_letters) = (outgoing.bytes(), outgoing.dead_letters());
    let mut under_way = Vec::with_capacity(records);
    for (input, record) in &outgoing.records {
        let sending = producer.send(record).await;
        under_way.push((*input, record.topic, sending));
    }
    let events = events.clone();
    tokio::spawn(async move {
        let ends = under_way.into_iter().map(|(input, topic, sending)| async move {
            let error = match sending {
                Ok(sending) => sending.acknowledged().await.err()?,
                Err(error) => error,
            };
            Some(FailedSend { input, topic, error })
        });
        let failures = join_all(ends).await.into_iter().flatten().collect();
        // A session that has ended no longer needs its deliveries.
        let _ = events.send(Event::Delivered(Delivered { batch, records, dead_letters, bytes, failures }));
    });
}
