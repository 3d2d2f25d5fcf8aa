//! Publishing from outside a stage: importers, the trainer, the command line.

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::config::KafkaConfig;
use crate::producer::{Position, Producer};
use crate::{OutputRecord, StreamError};

/// Deliveries under way at once, at most.
const IN_FLIGHT: usize = 10_000;
/// A record is given up after this.
const DELIVERY_TIMEOUT_MS: u32 = 60_000;

/// An idempotent producer. Clones share it, and its queue of 128 MiB: where that is full, publishing waits.
#[derive(Clone, Debug)]
pub struct Publisher {
    producer: Producer,
}

impl Publisher {
    /// Makes the client; it connects by itself.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, StreamError> {
        Ok(Self { producer: Producer::new(kafka, DELIVERY_TIMEOUT_MS)? })
    }

    /// Publishes a record and waits for its acknowledgement.
    ///
    /// # Errors
    ///
    /// [`StreamError::TooLarge`], [`StreamError::Delivery`].
    pub async fn publish(&self, record: OutputRecord) -> Result<Position, StreamError> {
        let name = || self.producer.name(record.topic);
        let sending = self.producer.send(&record).await.map_err(|e| e.into_stream_error(name()))?;
        sending.acknowledged().await.map_err(|e| e.into_stream_error(name()))
    }

    /// Publishes records, many in flight, keeping their order within a partition, and waits for the
    /// acknowledgement of all. Returns how many there were.
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
            under_way.push(self.start(&record, &mut count).await?);
        }
        while let Some(done) = under_way.next().await {
            done?;
        }
        Ok(count)
    }

    /// Queues a record; the future ends with its acknowledgement.
    async fn start(
        &self,
        record: &OutputRecord,
        count: &mut usize,
    ) -> Result<impl Future<Output = Result<Position, StreamError>> + use<>, StreamError> {
        let name = self.producer.name(record.topic);
        let sending = self.producer.send(record).await.map_err(|e| e.into_stream_error(name.clone()))?;
        *count += 1;
        Ok(async move { sending.acknowledged().await.map_err(|e| e.into_stream_error(name)) })
    }
}
