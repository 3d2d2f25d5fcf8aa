//! Writes records: an idempotent producer that keeps the order it is given and reports every
//! delivery, in transactions if it was made for them.

use std::time::Duration;

use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::{DeliveryFuture, FutureProducer, FutureRecord};
use rdkafka::producer::{Producer as _, PurgeConfig};
use rdkafka::{ClientConfig, TopicPartitionList};
use unprompt_schemas::topics::{Prefix, Topic};

use crate::admin_requests::{Described, Request};
use crate::config::KafkaConfig;
use crate::connection::{ConnectionWatch, LoggingContext};
use crate::topic_ids::{TopicChange, TopicIds};
use crate::{OutputRecord, StreamError, kafka};

/// The pause before a full queue is tried again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);
/// The bytes that framing adds to a record, at most, without its headers.
const RECORD_FRAMING_BYTES: usize = 256;
/// The bytes that framing adds to a header, at most.
const HEADER_FRAMING_BYTES: usize = 16;

/// The position of a delivered record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
}

/// Why a record was not delivered.
#[derive(Clone, Debug)]
pub(crate) enum SendError {
    /// The record itself is the reason: it is larger than its topic allows.
    TooLarge {
        size_bytes: usize,
        limit_bytes: usize,
    },
    Kafka(KafkaError),
}

impl SendError {
    pub fn into_stream_error(self, topic: String) -> StreamError {
        match self {
            Self::TooLarge { size_bytes, limit_bytes } => {
                StreamError::TooLarge { topic, size_bytes, limit_bytes }
            }
            Self::Kafka(source) => StreamError::Delivery { topic, source },
        }
    }
}

/// Returns whether the broker refuses us for good: no retry fixes a missing permission.
pub(crate) fn is_permanent(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::InvalidTopic
        )
    )
}

/// A delivery in progress.
pub(crate) struct Sending {
    future: DeliveryFuture,
    size_bytes: usize,
}

impl Sending {
    /// Waits for the broker's acknowledgement.
    pub async fn acknowledged(self) -> Result<Position, SendError> {
        match self.future.await {
            Ok(Ok(delivery)) => Ok(Position { partition: delivery.partition, offset: delivery.offset }),
            Ok(Err((error, _))) => Err(classify(error, self.size_bytes)),
            Err(_) => Err(SendError::Kafka(KafkaError::Canceled)),
        }
    }
}

/// Classifies a delivery error. The broker's own size limit may be below the catalogue's.
fn classify(error: KafkaError, size_bytes: usize) -> SendError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
            SendError::TooLarge { size_bytes, limit_bytes: size_bytes.saturating_sub(1) }
        }
        _ => SendError::Kafka(error),
    }
}

/// An idempotent producer. Clones share it.
#[derive(Clone)]
pub(crate) struct Producer {
    client: FutureProducer<LoggingContext>,
    connection: ConnectionWatch,
    prefix: Prefix,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Producer {
    /// Makes a producer that gives up a record after `delivery_timeout_ms`; never if that is 0.
    pub fn new(kafka: &KafkaConfig, delivery_timeout_ms: u32) -> Result<Self, StreamError> {
        Self::made(kafka, &kafka::producer(kafka, delivery_timeout_ms))
    }

    /// Makes a transactional producer under `id`; the broker aborts its transactions after
    /// `timeout`.
    pub fn transactional(kafka: &KafkaConfig, id: &str, timeout: Duration) -> Result<Self, StreamError> {
        Self::made(kafka, &kafka::transactional_producer(kafka, id, timeout))
    }

    fn made(kafka: &KafkaConfig, config: &ClientConfig) -> Result<Self, StreamError> {
        let context = LoggingContext::default();
        let connection = context.connection.clone();
        let client = config.create_with_context(context).map_err(StreamError::client)?;
        Ok(Self { client, connection, prefix: kafka.prefix.clone() })
    }

    /// Has the broker end what an earlier producer with the same id left open, and
    /// fences that producer.
    pub fn init_transactions(&self, patience: Duration) -> KafkaResult<()> {
        self.client.init_transactions(patience)
    }

    /// Returns whether the broker has refused our credentials or our TLS more than once.
    pub fn is_refused(&self) -> bool {
        self.connection().is_refused()
    }

    /// Returns the true cause of a missing answer.
    pub fn explain(&self, brokers: &str, error: KafkaError) -> StreamError {
        self.connection().explain(brokers, error)
    }

    /// Returns the problem that keeps it from the broker.
    pub fn connection(&self) -> &ConnectionWatch {
        &self.connection
    }

    pub fn begin_transaction(&self) -> KafkaResult<()> {
        self.client.begin_transaction()
    }

    /// Makes the inputs' offsets part of the transaction.
    pub fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        patience: Duration,
    ) -> KafkaResult<()> {
        self.client.send_offsets_to_transaction(offsets, group, patience)
    }

    pub fn commit_transaction(&self, patience: Duration) -> KafkaResult<()> {
        self.client.commit_transaction(patience)
    }

    pub fn abort_transaction(&self, patience: Duration) -> KafkaResult<()> {
        self.client.abort_transaction(patience)
    }

    /// Returns the topics that have changed since they became known.
    pub fn look_at_topics(&self, ids: &TopicIds) -> KafkaResult<Vec<TopicChange>> {
        ids.look(self.client.client())
    }

    /// Asks the broker for the ids of topics.
    pub fn ask_topic_ids(&self, ids: &TopicIds) -> KafkaResult<Request<'_, Described>> {
        ids.ask(self.client.client())
    }

    pub fn name(&self, topic: Topic) -> String {
        self.prefix.name(topic)
    }

    /// Queues a record, waiting while the queue is full. Records of one partition are delivered in
    /// the order of the calls.
    pub async fn send(&self, record: &OutputRecord) -> Result<Sending, SendError> {
        let size_bytes = framed_bytes(record);
        let limit_bytes = record.topic.spec().max_message_bytes as usize;
        if size_bytes > limit_bytes {
            return Err(SendError::TooLarge { size_bytes, limit_bytes });
        }
        let topic = self.name(record.topic);
        let mut message = future_record(&topic, record);
        loop {
            match self.client.send_result(message) {
                Ok(future) => return Ok(Sending { future, size_bytes }),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    message = back;
                    tokio::time::sleep(QUEUE_FULL_PAUSE).await;
                }
                Err((error, _)) => return Err(classify(error, size_bytes)),
            }
        }
    }

    /// Gives up everything queued or in flight; every pending delivery ends with an error.
    pub fn purge(&self) {
        self.client.purge(PurgeConfig::default().queue().inflight());
    }
}

/// Returns the size of the record in a batch of its own, framing included, rounded up.
fn framed_bytes(record: &OutputRecord) -> usize {
    record.size_bytes() + RECORD_FRAMING_BYTES + HEADER_FRAMING_BYTES * record.headers.len()
}

fn future_record<'a>(topic: &'a str, record: &'a OutputRecord) -> FutureRecord<'a, [u8], [u8]> {
    let mut message = FutureRecord::to(topic);
    message.key = record.key.as_deref();
    message.payload = record.value.as_deref();
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        message.headers = Some(record.headers.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_slice()) })
        }));
    }
    message
}
