//! Administers the catalogue's topics: creates the missing ones, and warns of those whose limits
//! are too small.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use unprompt_schemas::topics::{Topic, TopicSpec};

use crate::config::KafkaConfig;
use crate::connection::LoggingContext;
use crate::producer::Producer;
use crate::{StreamError, connection, kafka};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A warning is not worth a longer wait.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of the first request; each further one may take twice as long.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
/// The pause before a partition without a leader is queried again.
const LEADER_PAUSE: Duration = Duration::from_millis(100);
/// The time that a broker may take to find its transaction coordinator.
const TRANSACTION_TRIAL: Duration = Duration::from_secs(15);
/// After this time the trial checks whether the broker has refused us meanwhile.
const TRANSACTION_CALL: Duration = Duration::from_secs(1);

/// A catalogue topic as it is on the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    pub topic: Topic,
    /// The name on the broker, prefix included.
    pub name: String,
    /// `None` if it does not exist.
    pub partitions: Option<usize>,
    /// The number of offsets from the first kept to the next. It counts the records, and the
    /// offsets that compaction and transactions leave out.
    pub offsets: i64,
}

/// Creates the catalogue's missing topics, and warns of those that take smaller records than the
/// catalogue promises. Repeating it changes nothing.
///
/// # Errors
///
/// [`StreamError::Unreachable`] if no broker answers, [`StreamError::TopicNotCreated`].
pub async fn ensure_topics(kafka: &KafkaConfig) -> Result<(), StreamError> {
    let admin = admin(kafka)?;
    let present = present(kafka).await?;
    let missing: Vec<Topic> =
        Topic::ALL.into_iter().filter(|topic| !present.contains(&kafka.prefix.name(*topic))).collect();
    create(kafka, &admin, &missing).await?;
    let existing: Vec<Topic> = Topic::ALL.into_iter().filter(|topic| !missing.contains(topic)).collect();
    warn_of_settings(kafka, &admin, &existing).await;
    Ok(())
}

/// Lists the catalogue's topics as they are on the broker.
pub async fn list_topics(kafka: &KafkaConfig) -> Result<Vec<TopicState>, StreamError> {
    let kafka = kafka.clone();
    blocking(move |abandoned| {
        let consumer = probe(&kafka)?;
        let metadata = metadata(&kafka, &consumer, None, abandoned)?;
        Topic::ALL.into_iter().map(|topic| state_of(&kafka, &consumer, &metadata, topic)).collect()
    })
    .await
}

/// Returns how long the broker keeps the offsets of a group without members; `None` if it does not
/// say, as the embedded broker, which keeps them for ever.
///
/// # Errors
///
/// [`StreamError::Unreachable`] and other errors of the connection.
pub async fn offsets_retention(kafka: &KafkaConfig) -> Result<Option<Duration>, StreamError> {
    let own = kafka.clone();
    let broker = blocking(move |abandoned| {
        let consumer = probe(&own)?;
        Ok(metadata(&own, &consumer, None, abandoned)?.brokers().first().map(|broker| broker.id()))
    });
    let Some(broker) = broker.await? else { return Ok(None) };
    let asked = [ResourceSpecifier::Broker(broker)];
    let described = admin(kafka)?.describe_configs(&asked, &options(DESCRIBE_TIMEOUT)).await;
    let entry = described.ok().and_then(|mut configs| configs.pop()?.ok());
    let minutes =
        entry.and_then(|config| config.get("offsets.retention.minutes")?.value.as_ref()?.parse::<u64>().ok());
    Ok(minutes.map(|minutes| Duration::from_secs(60 * minutes)))
}

/// Deletes the records of each partition before the given offset; later records stay.
///
/// # Errors
///
/// [`StreamError::NotDeleted`] if the broker refuses.
pub async fn delete_records(
    kafka: &KafkaConfig,
    topic: Topic,
    before: &BTreeMap<i32, i64>,
) -> Result<(), StreamError> {
    let name = kafka.prefix.name(topic);
    let refused = |source| StreamError::NotDeleted { topic: name.clone(), source };
    let mut list = TopicPartitionList::new();
    for (partition, offset) in before {
        list.add_partition_offset(&name, *partition, Offset::Offset(*offset)).map_err(refused)?;
    }
    let deleted = admin(kafka)?.delete_records(&list, &options(REQUEST_TIMEOUT)).await;
    let failed = deleted.and_then(|list| list.elements().iter().try_for_each(|element| element.error()));
    failed.map_err(refused)
}

/// Checks whether the broker accepts transactions from us, under a transactional id of
/// the service `doctor`.
///
/// # Errors
///
/// [`StreamError::NoTransactions`] if it refuses or does not answer in time.
pub async fn try_transactions(kafka: &KafkaConfig) -> Result<(), StreamError> {
    let kafka = kafka.clone();
    blocking(move |_| {
        let id = kafka.transactional_id("doctor");
        let producer = Producer::transactional(&kafka, &id, TRANSACTION_TRIAL)?;
        let started = Instant::now();
        loop {
            let Err(source) = producer.init_transactions(TRANSACTION_CALL) else { return Ok(()) };
            if producer.is_refused() {
                return Err(producer.explain(&kafka.brokers, source));
            }
            let may_come = matches!(&source, KafkaError::Transaction(error) if error.is_retriable());
            if !may_come || started.elapsed() >= TRANSACTION_TRIAL {
                let (brokers, source) = (kafka.brokers, Box::new(source));
                return Err(StreamError::NoTransactions { brokers, id, source });
            }
            std::thread::sleep(LEADER_PAUSE);
        }
    })
    .await
}

/// Returns the committed offsets of the group of `service` in `topic`: the next offset of each
/// partition that has one.
///
/// # Errors
///
/// [`StreamError::Unreachable`] if no broker answers.
pub async fn committed_offsets(
    kafka: &KafkaConfig,
    service: &str,
    topic: Topic,
) -> Result<BTreeMap<i32, i64>, StreamError> {
    let (kafka, group) = (kafka.clone(), kafka.group(service));
    blocking(move |abandoned| {
        let consumer: BaseConsumer<LoggingContext> = kafka::consumer(&kafka, &group)
            .create_with_context(LoggingContext::default())
            .map_err(StreamError::client)?;
        let metadata = metadata(&kafka, &consumer, None, abandoned)?;
        let name = kafka.prefix.name(topic);
        let mut asked = TopicPartitionList::new();
        for found in metadata.topics().iter().filter(|found| found.name() == name) {
            found.partitions().iter().for_each(|partition| {
                asked.add_partition(&name, partition.id());
            });
        }
        let answered = consumer
            .committed_offsets(asked, REQUEST_TIMEOUT)
            .map_err(|error| connection::explain(&kafka, &consumer, error))?;
        let offsets = answered.elements().into_iter();
        Ok(offsets
            .filter_map(|one| Some((one.partition(), one.offset().to_raw()?)))
            .filter(|(_, at)| *at >= 0)
            .collect())
    })
    .await
}

fn state_of(
    kafka: &KafkaConfig,
    consumer: &BaseConsumer<LoggingContext>,
    metadata: &Metadata,
    topic: Topic,
) -> Result<TopicState, StreamError> {
    let name = kafka.prefix.name(topic);
    let found = metadata.topics().iter().find(|t| t.name() == name && !t.partitions().is_empty());
    let mut offsets = 0;
    for partition in found.iter().flat_map(|found| found.partitions()) {
        let (low, high) = watermarks(kafka, consumer, &name, partition.id())?;
        offsets += high - low;
    }
    Ok(TopicState { topic, partitions: found.map(|found| found.partitions().len()), name, offsets })
}

/// Returns the names of all topics on the broker.
async fn present(kafka: &KafkaConfig) -> Result<Vec<String>, StreamError> {
    let kafka = kafka.clone();
    blocking(move |abandoned| {
        let metadata = metadata(&kafka, &probe(&kafka)?, None, abandoned)?;
        let existing = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(existing.map(|topic| topic.name().to_owned()).collect())
    })
    .await
}

async fn create(
    kafka: &KafkaConfig,
    admin: &AdminClient<LoggingContext>,
    missing: &[Topic],
) -> Result<(), StreamError> {
    if missing.is_empty() {
        return Ok(());
    }
    let wanted: Vec<WantedTopic> = missing.iter().map(|topic| WantedTopic::new(kafka, *topic)).collect();
    let new: Vec<NewTopic<'_>> = wanted.iter().map(WantedTopic::as_new_topic).collect();
    let created = admin.create_topics(&new, &options(REQUEST_TIMEOUT)).await.map_err(|error| {
        StreamError::Unreachable { brokers: kafka.brokers.clone(), reason: error.to_string() }
    })?;
    for result in created {
        match result {
            Ok(topic) => tracing::info!(topic, "topic created"),
            // Another service was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, error)) => {
                return Err(StreamError::TopicNotCreated { topic, reason: error.to_string() });
            }
        }
    }
    Ok(())
}

/// A broker that stores records as they are checks their size after inflating them. With any other
/// setting it checks a batch as it was sent, and a megabyte of gzip becomes a gigabyte in a
/// consumer. Pictures and vectors hardly get smaller by compression.
const UNCOMPRESSED: &str = "uncompressed";

/// The broker's clock stamps what services write, so that a service whose clock is wrong can go on
/// and retention is right. The time of a prompt or picture is its sender's.
fn timestamp_type(topic: Topic) -> &'static str {
    match topic {
        Topic::Prompts | Topic::Images => "CreateTime",
        _ => "LogAppendTime",
    }
}

/// The strings that rdkafka's `NewTopic` borrows.
struct WantedTopic {
    name: String,
    spec: TopicSpec,
    retention_ms: String,
    max_message_bytes: String,
    timestamp_type: &'static str,
}

impl WantedTopic {
    fn new(kafka: &KafkaConfig, topic: Topic) -> Self {
        let spec = topic.spec();
        Self {
            name: kafka.prefix.name(topic),
            retention_ms: spec.retention_ms.to_string(),
            max_message_bytes: spec.max_message_bytes.to_string(),
            timestamp_type: timestamp_type(topic),
            spec,
        }
    }

    fn as_new_topic(&self) -> NewTopic<'_> {
        // -1: the broker's own default.
        NewTopic::new(&self.name, self.spec.partitions, TopicReplication::Fixed(-1))
            .set("cleanup.policy", if self.spec.compacted { "compact" } else { "delete" })
            .set("retention.ms", &self.retention_ms)
            .set("max.message.bytes", &self.max_message_bytes)
            .set("compression.type", UNCOMPRESSED)
            .set("message.timestamp.type", self.timestamp_type)
    }
}

/// Warns of topics with other settings than the catalogue's, so that it shows here and not at the
/// first large picture.
async fn warn_of_settings(kafka: &KafkaConfig, admin: &AdminClient<LoggingContext>, topics: &[Topic]) {
    let names: Vec<String> = topics.iter().map(|topic| kafka.prefix.name(*topic)).collect();
    let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    if resources.is_empty() {
        return;
    }
    let described = match admin.describe_configs(&resources, &options(DESCRIBE_TIMEOUT)).await {
        Ok(described) => described,
        Err(error) => return tracing::debug!(%error, "topic limits could not be read"),
    };
    for (topic, config) in topics.iter().zip(described) {
        let Ok(config) = config else { continue };
        let limit =
            config.get("max.message.bytes").and_then(|entry| entry.value.as_ref()?.parse::<i32>().ok());
        let name = kafka.prefix.name(*topic);
        warn_if_small(&name, topic.spec().max_message_bytes, limit);
        warn_if_compressed(&name, config.get("compression.type").and_then(|entry| entry.value.as_deref()));
    }
}

fn warn_if_compressed(topic: &str, compression: Option<&str>) {
    if let Some(compression) = compression.filter(|compression| *compression != UNCOMPRESSED) {
        tracing::warn!(
            topic,
            compression,
            "the broker checks the size of this topic's batches as they are sent, so a small compressed batch may take much memory in a \
             service: change it with kafka-configs --alter --topic {topic} --add-config compression.type={UNCOMPRESSED}"
        );
    }
}

fn warn_if_small(topic: &str, wanted: i32, limit: Option<i32>) {
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        tracing::warn!(
            topic,
            limit_bytes = limit,
            wanted_bytes = wanted,
            "the topic takes smaller records than the catalogue promises; larger ones go to the dead letters: raise it with \
             kafka-configs --alter --topic {topic} --add-config max.message.bytes={wanted}"
        );
    }
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

fn admin(kafka: &KafkaConfig) -> Result<AdminClient<LoggingContext>, StreamError> {
    kafka::client(kafka).create_with_context(LoggingContext::default()).map_err(StreamError::client)
}

/// Makes a client for metadata and watermarks; it joins no group.
pub(crate) fn probe(kafka: &KafkaConfig) -> Result<BaseConsumer<LoggingContext>, StreamError> {
    kafka::client(kafka).create_with_context(LoggingContext::default()).map_err(StreamError::client)
}

/// Returns where a partition begins and ends. Asks again while the partition's leader is being
/// elected, as after a broker's start.
pub(crate) fn watermarks(
    kafka: &KafkaConfig,
    consumer: &BaseConsumer<LoggingContext>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), StreamError> {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition};
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT) {
            Err(error)
                if matches!(error.rdkafka_error_code(), Some(LeaderNotAvailable | NotLeaderForPartition))
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(LEADER_PAUSE);
            }
            marks => return marks.map_err(|error| connection::explain(kafka, consumer, error)),
        }
    }
}

/// Returns the broker's metadata of one topic, or of all. Retries with growing timeouts. It stops
/// when the broker refuses us, and when nobody waits for the answer: a blocking thread holds up the
/// end of the process.
pub(crate) fn metadata(
    kafka: &KafkaConfig,
    consumer: &BaseConsumer<LoggingContext>,
    topic: Option<&str>,
    abandoned: &AtomicBool,
) -> Result<Metadata, StreamError> {
    let mut patience = FIRST_PATIENCE;
    loop {
        let error = match consumer.fetch_metadata(topic, patience) {
            Ok(answered) => return Ok(answered),
            Err(error) => error,
        };
        let gives_up = connection::is_refused(consumer) || abandoned.load(Ordering::Relaxed);
        if gives_up || patience >= REQUEST_TIMEOUT / 4 {
            return Err(connection::explain(kafka, consumer, error));
        }
        patience *= 2;
    }
}

/// Signals, when dropped, that nobody waits for the answer any more.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs librdkafka's synchronous requests off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    request: impl FnOnce(&AtomicBool) -> Result<T, StreamError> + Send + 'static,
) -> Result<T, StreamError> {
    let abandoned = Arc::new(AtomicBool::new(false));
    let _abandon = Abandon(abandoned.clone());
    let answer = tokio::task::spawn_blocking(move || request(&abandoned));
    answer.await.map_err(|_| StreamError::Stopped("asking Kafka for its topics"))?
}
