//! Publishes from outside a stage: importers, the trainer, the command line.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::KafkaConfig;
use crate::producer::{Position, Producer, SendError};
use crate::traces::PublishSpan;
use crate::{OutputRecord, StreamError, Traces};

/// The number of deliveries in progress, at most.
const IN_FLIGHT: usize = 10_000;
/// A record is given up after this time.
const DELIVERY_TIMEOUT_MS: u32 = 60_000;

/// An idempotent producer. Clones share it and its queue of 128 MiB; while the queue is
/// full, publishing waits.
#[derive(Clone, Debug)]
pub struct Publisher {
    producer: Producer,
    brokers: String,
    traces: Traces,
}

impl Publisher {
    /// Makes the client, which connects by itself.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, StreamError> {
        let producer = Producer::new(kafka, DELIVERY_TIMEOUT_MS)?;
        Ok(Self { producer, brokers: kafka.brokers.clone(), traces: Traces::default() })
    }

    /// Sets the traces: each record gets a span and carries its context.
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Publishes a record and waits for its acknowledgement.
    ///
    /// # Errors
    ///
    /// [`StreamError::TooLarge`], [`StreamError::Delivery`], [`StreamError::Credentials`],
    /// [`StreamError::Tls`].
    pub async fn publish(&self, record: OutputRecord) -> Result<Position, StreamError> {
        self.start(record).await?.await
    }

    /// Publishes records, many in flight, in order within a partition, and waits until all are
    /// acknowledged. Returns their number.
    ///
    /// # Errors
    ///
    /// The first failure; records after it may or may not be written.
    pub async fn publish_many(
        &self,
        records: impl IntoIterator<Item = OutputRecord>,
    ) -> Result<usize, StreamError> {
        let mut under_way = FuturesUnordered::new();
        let mut count = 0;
        for record in records {
            while under_way.len() >= IN_FLIGHT {
                under_way.next().await.transpose()?;
            }
            under_way.push(self.start(record).await?);
            count += 1;
        }
        while let Some(done) = under_way.next().await {
            done?;
        }
        Ok(count)
    }

    /// Queues a record; the returned future ends with its acknowledgement.
    async fn start(
        &self,
        mut record: OutputRecord,
    ) -> Result<impl Future<Output = Result<Position, StreamError>> + use<>, StreamError> {
        let name = self.producer.name(record.topic);
        let span = PublishSpan::begin(&self.traces, &name, &mut record);
        let sent = self.producer.send(&record).await.map_err(|e| e.into_stream_error(name.clone()));
        let sending = match sent {
            Ok(sending) => sending,
            Err(error) => return Err(span.failed(error)),
        };
        let (connection, brokers) = (self.producer.connection().clone(), self.brokers.clone());
        let published = async move {
            // A broker that refuses us never acknowledges the record, so waiting for that
            // alone would be in vain.
            let acknowledged = tokio::select! {
                acknowledged = sending.acknowledged() => acknowledged,
                error = connection.refused(&brokers) => return Err(error),
            };
            if acknowledged.is_ok() {
                connection.forget();
            }
            acknowledged.map_err(|error| match error {
                SendError::Kafka(source) if is_late(&source) => connection.explain(&brokers, source),
                error => error.into_stream_error(name),
            })
        };
        Ok(async move { span.end(published.await) })
    }
}

fn is_late(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::MessageTimedOut))
}
