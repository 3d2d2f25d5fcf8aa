//! The consumer's thread: it polls continuously, so that the group never considers this member
//! dead, and sends what it receives as events.
//!
//! It decides only when to pause partitions, and where they start; the runner's loop owns the state.

mod floors;
mod start;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::statistics::Partition;
use rdkafka::{Statistics, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;
use unprompt_schemas::cloudevents::Headers;
use unprompt_schemas::topics::{Prefix, Topic};

use self::floors::Floors;
use crate::config::KafkaConfig;
use crate::connection::{ConnectionWatch, CredentialRefusals};
use crate::in_flight::InFlight;
use crate::offsets::TopicPartition;
use crate::pauses::Pauses;
use crate::topic_ids::{TopicChange, TopicIds, TopicWatch};
use crate::{InputRecord, StreamError, connection, kafka};

/// The longest wait of one poll.
const POLL: Duration = Duration::from_millis(100);
/// The time that the thread waits for room before it pauses the partitions. A pause discards what
/// librdkafka has prefetched, so only slow stages should cause one.
const ROOM_PATIENCE: Duration = Duration::from_millis(500);
/// The time that the broker has to tell where a partition ends.
const ENDS_PATIENCE: Duration = Duration::from_secs(5);
/// Added to the loop's own limit for draining revoked partitions. Also the longest wait for the
/// last offsets when the thread ends.
const REVOKE_MARGIN: Duration = Duration::from_secs(1);

/// The events that the consumer's thread sends to the loop.
#[derive(Debug)]
pub(crate) enum ConsumerEvent {
    Record(InputRecord),
    Assigned(Vec<TopicPartition>),
    /// The thread waits for the offsets that may still be committed.
    Revoked {
        topic_partitions: Vec<TopicPartition>,
        lost: bool,
        answer: blocking::Sender<Vec<(TopicPartition, i64)>>,
    },
    Committed(Result<(), KafkaError>),
    /// The ends of partitions; sent periodically.
    Ends(Vec<End>),
    /// Topics were deleted, and perhaps created again.
    TopicsChanged(Vec<TopicChange>),
    /// It is not known where the partitions that were assigned start.
    NotSettled(KafkaError),
    /// The consumer cannot continue.
    Failed(KafkaError),
}

/// The end of a partition for readers of committed records, as last reported by the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub topic_partition: TopicPartition,
    /// The first offset that the broker still has.
    pub start: i64,
    pub end: i64,
    /// The last committed offset that librdkafka knows, if any.
    pub committed: Option<i64>,
    /// The offset after the last record that was taken, if any was.
    pub taken: Option<i64>,
    /// True if nothing before the end is left to fetch. Transaction markers take offsets too, but
    /// they are not records.
    pub drained: bool,
}

type GroupConsumer = BaseConsumer<GroupContext>;

/// The loop's side of the consumer's thread.
pub(crate) struct ConsumerHandle {
    consumer: Option<Arc<GroupConsumer>>,
    tell: Tell,
    pub names: Names,
    ids: TopicIds,
    connection: ConnectionWatch,
    brokers: String,
    stop: Arc<AtomicBool>,
    last_offsets: blocking::Sender<Vec<(TopicPartition, i64)>>,
    thread: Option<JoinHandle<()>>,
}

impl ConsumerHandle {
    /// Joins `group`, reads `topics` and sends what happens to `events`, also to the topics of `ids`.
    pub fn start<E: From<ConsumerEvent> + Send + 'static>(
        kafka: &KafkaConfig,
        group: &str,
        topics: &[Topic],
        events: UnboundedSender<E>,
        bounds: Bounds,
        ids: &TopicIds,
    ) -> Result<Self, StreamError> {
        let names = Names::new(&kafka.prefix);
        let tell: Tell = Arc::new(move |event| events.send(E::from(event)).is_ok());
        let connection = ConnectionWatch::default();
        let (drain, floors) = (bounds.revoke_drain, Floors::default());
        let context = GroupContext {
            tell: tell.clone(),
            names: names.clone(),
            ids: ids.clone(),
            floors: floors.clone(),
            group: group.to_owned(),
            connection: connection.clone(),
            drain,
        };
        let consumer: GroupConsumer = kafka::group_consumer(kafka, group, bounds.in_flight.limit)
            .create_with_context(context)
            .map_err(StreamError::client)?;
        let names_of: Vec<String> = topics.iter().map(|topic| kafka.prefix.name(*topic)).collect();
        let borrowed: Vec<&str> = names_of.iter().map(String::as_str).collect();
        consumer
            .subscribe(&borrowed)
            .map_err(|source| StreamError::Consumer { group: group.to_owned(), source })?;
        let consumer = Arc::new(consumer);
        let stop = Arc::new(AtomicBool::new(false));
        let (last_offsets, at_end) = blocking::channel();
        let poller = Poller {
            consumer: consumer.clone(),
            tell: tell.clone(),
            names: names.clone(),
            ids: ids.clone(),
            floors,
            in_flight: bounds.in_flight,
            stop: stop.clone(),
            at_end,
        };
        let thread = std::thread::Builder::new().name("consumer".into()).spawn(move || poller.run());
        let thread = thread.map_err(StreamError::Thread)?;
        let (consumer, thread, brokers) = (Some(consumer), Some(thread), kafka.brokers.clone());
        let ids = ids.clone();
        Ok(Self { consumer, tell, names, ids, connection, brokers, stop, last_offsets, thread })
    }

    /// Turns the error that ended the consumer into the error to report.
    pub fn failure(&self, group: &str, source: KafkaError) -> StreamError {
        match connection::rejects_credentials(&source) {
            true => self.connection.explain(&self.brokers, source),
            false => StreamError::Consumer { group: group.to_owned(), source },
        }
    }

    /// Requests a commit; its result arrives as an event.
    ///
    /// The commit blocks a thread outside the loop: librdkafka's event interface, which rdkafka
    /// uses, never reports the result of an asynchronous commit.
    pub fn commit(&self, offsets: &[(TopicPartition, i64)]) {
        let Some(consumer) = self.consumer.clone() else { return };
        let (offsets, tell) = (self.ids.commit_list(offsets), self.tell.clone());
        tokio::task::spawn_blocking(move || {
            let committed = consumer.commit(&offsets, CommitMode::Sync);
            tell(ConsumerEvent::Committed(committed))
        });
    }

    /// Returns the offsets and the current group membership, both of which a transaction needs to
    /// commit the offsets. `None` if the membership is lost.
    pub fn for_transaction(
        &self,
        offsets: &[(TopicPartition, i64)],
    ) -> Option<(TopicPartitionList, ConsumerGroupMetadata)> {
        let consumer = self.consumer.as_ref()?;
        let group = consumer.group_metadata()?;
        // Without a membership, the metadata names no member, and Kafka would accept offsets of no
        // member in a transaction. The flag is set no later than the membership is lost, and is
        // cleared only after the session has given the partitions up.
        (!consumer.assignment_lost()).then(|| (self.ids.commit_list(offsets), group))
    }

    /// Returns whether the thread has ended. Before it ends by itself it sends why.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Commits `offsets`, leaves the group and ends the thread. It blocks, so call it off
    /// the async threads.
    pub fn close(mut self, offsets: Vec<(TopicPartition, i64)>) {
        // A thread that has ended has already left the group.
        let _ = self.last_offsets.send(offsets);
        self.stop.store(true, Ordering::Relaxed);
        self.consumer = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the consumer's thread panicked");
        }
    }
}

impl Drop for ConsumerHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The limits of the consumer's thread.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub in_flight: Arc<InFlight>,
    pub revoke_drain: Duration,
}

type Tell = Arc<dyn Fn(ConsumerEvent) -> bool + Send + Sync>;

struct Poller {
    consumer: Arc<GroupConsumer>,
    tell: Tell,
    names: Names,
    ids: TopicIds,
    floors: Floors,
    in_flight: Arc<InFlight>,
    stop: Arc<AtomicBool>,
    at_end: blocking::Receiver<Vec<(TopicPartition, i64)>>,
}

impl Poller {
    fn run(self) {
        self.poll_until_stopped();
        self.leave();
    }

    fn poll_until_stopped(&self) {
        let (mut pauses, mut refusals) = (Pauses::default(), CredentialRefusals::default());
        let mut topics = TopicWatch::new(self.consumer.client(), self.ids.clone());
        while !self.stop.load(Ordering::Relaxed) {
            self.pause_or_resume(&mut pauses);
            self.report(topics.look());
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    self.forward(&message);
                    // A record that arrives during a pause belongs to a partition that
                    // was assigned since.
                    if pauses.is_any() {
                        pauses.pause(&*self.consumer);
                    }
                }
                Some(Err(error)) if is_final(&error) || refusals.are_final(&error) => {
                    (self.tell)(ConsumerEvent::Failed(error));
                    break;
                }
                Some(Err(error)) => connection::log_error(&error, "the consumer continues"),
            }
        }
    }

    fn report(&self, changes: Vec<TopicChange>) {
        if !changes.is_empty() {
            (self.tell)(ConsumerEvent::TopicsChanged(changes));
        }
    }

    fn forward(&self, message: &BorrowedMessage<'_>) {
        if let Some(record) = self.names.record(message)
            && !self.starts_too_early(&record)
        {
            self.in_flight.add(&record);
            (self.tell)(ConsumerEvent::Record(record));
        }
    }

    /// Returns whether the record's partition starts below the group's committed offset. The session
    /// then ends, and its next one asks again. A log that ends below that offset was truncated: what
    /// is left of it is read.
    fn starts_too_early(&self, record: &InputRecord) -> bool {
        let at = TopicPartition::from(record);
        let Some(floor) = self.floors.above(at, record.offset) else { return false };
        let (topic, partition) = (&record.topic_name, record.partition);
        if matches!(self.consumer.fetch_watermarks(topic, partition, ENDS_PATIENCE), Ok((_, end)) if end < floor)
        {
            tracing::warn!(
                topic,
                partition,
                committed = floor,
                "the partition ends below the committed offset: the broker has lost records. It is read from its first record"
            );
            self.floors.set(at, None);
            return false;
        }
        let reset = KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset);
        (self.tell)(ConsumerEvent::NotSettled(reset));
        true
    }

    fn pause_or_resume(&self, pauses: &mut Pauses) {
        if pauses.is_any() {
            if self.in_flight.has_room_again() {
                pauses.resume(&*self.consumer);
            }
        } else if self.in_flight.is_full() && !self.wait_for_room() {
            pauses.pause(&*self.consumer);
        }
    }

    fn wait_for_room(&self) -> bool {
        let deadline = Instant::now() + ROOM_PATIENCE;
        while self.in_flight.is_full() {
            if Instant::now() >= deadline || self.stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Commits the offsets that the loop handed over at the end, and leaves the group by dropping
    /// the last reference.
    fn leave(self) {
        if let Ok(offsets) = self.at_end.recv_timeout(REVOKE_MARGIN)
            && !offsets.is_empty()
            && let Err(error) = self.consumer.commit(&self.ids.commit_list(&offsets), CommitMode::Sync)
        {
            tracing::warn!(%error, "the last commit failed; its records will be processed again");
        }
    }
}

/// Returns whether polling is pointless after this error.
fn is_final(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::FencedInstanceId
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::TopicAuthorizationFailed
            )
        )
}

/// librdkafka's callbacks. They run on the consumer's thread and only send events; when partitions
/// are revoked, they also wait for the answer.
struct GroupContext {
    tell: Tell,
    names: Names,
    ids: TopicIds,
    floors: Floors,
    group: String,
    connection: ConnectionWatch,
    drain: Duration,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        connection::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.connection.note(&error, reason);
        connection::log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        (self.tell)(ConsumerEvent::Ends(self.names.ends(&statistics)));
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => self.assign(consumer, partitions),
            Rebalance::Revoke(partitions) => self.revoke(consumer, partitions),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed; the consumer tries again"),
        }
    }
}

impl GroupContext {
    /// Settles where the partitions start before they are read.
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        match start::settle(consumer, &self.ids, &self.floors, &self.group, partitions) {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => {
                (self.tell)(ConsumerEvent::TopicsChanged(changes));
            }
            Err(error) => {
                (self.tell)(ConsumerEvent::NotSettled(error));
            }
        }
        (self.tell)(ConsumerEvent::Assigned(self.names.topic_partitions(partitions)));
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let lost = consumer.assignment_lost();
        let (answer, answered) = blocking::channel();
        let topic_partitions = self.names.topic_partitions(partitions);
        if !(self.tell)(ConsumerEvent::Revoked { topic_partitions, lost, answer }) {
            return;
        }
        let Ok(offsets) = answered.recv_timeout(self.drain + REVOKE_MARGIN) else { return };
        if lost || offsets.is_empty() {
            return;
        }
        if let Err(error) = consumer.commit(&self.ids.commit_list(&offsets), CommitMode::Sync) {
            tracing::warn!(%error, "the commit of revoked partitions failed; their next owner repeats some records");
        }
    }
}

/// Maps topics to their names on the broker, and back.
#[derive(Clone, Debug)]
pub(crate) struct Names(Prefix);

impl Names {
    pub fn new(prefix: &Prefix) -> Self {
        Self(prefix.clone())
    }

    /// Copies a message into an owned record; `None` if its topic is not in the catalogue.
    pub fn record(&self, message: &BorrowedMessage<'_>) -> Option<InputRecord> {
        Some(InputRecord {
            topic: self.0.parse(message.topic())?,
            topic_name: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers_of(message),
        })
    }

    fn topic_partitions(&self, partitions: &TopicPartitionList) -> Vec<TopicPartition> {
        let elements = partitions.elements();
        let topic_partition =
            |topic: &str, partition| Some(TopicPartition { topic: self.0.parse(topic)?, partition });
        elements.iter().filter_map(|element| topic_partition(element.topic(), element.partition())).collect()
    }

    fn ends(&self, statistics: &Statistics) -> Vec<End> {
        let topics =
            statistics.topics.values().filter_map(|topic| Some((self.0.parse(&topic.topic)?, topic)));
        let partitions = topics.flat_map(|(name, topic)| topic.partitions.values().map(move |at| (name, at)));
        // A negative end is not known yet. A negative partition is librdkafka's own, for records
        // without a partition.
        let known = partitions.filter(|(_, at)| at.partition >= 0 && at.ls_offset >= 0);
        known.map(|(topic, at)| end_of(topic, at)).collect()
    }

    pub fn name(&self, topic: Topic) -> String {
        self.0.name(topic)
    }
}

fn end_of(topic: Topic, at: &Partition) -> End {
    End {
        topic_partition: TopicPartition { topic, partition: at.partition },
        start: at.lo_offset.max(0),
        end: at.ls_offset,
        committed: (at.committed_offset >= 0).then_some(at.committed_offset),
        taken: (at.app_offset >= 0).then_some(at.app_offset),
        drained: at.fetchq_cnt == 0 && at.next_offset >= at.ls_offset,
    }
}

fn headers_of(message: &BorrowedMessage<'_>) -> Headers {
    let Some(headers) = message.headers() else { return Headers::new() };
    (0..headers.count()).filter_map(|index| header_at(headers, index)).collect()
}

/// Copies a header; `None` if its name is not UTF-8. rdkafka panics on such a name, and one header
/// must not end a service.
fn header_at(headers: &rdkafka::message::BorrowedHeaders, index: usize) -> Option<(String, Vec<u8>)> {
    let header = std::panic::catch_unwind(|| {
        headers
            .try_get(index)
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
    });
    header.unwrap_or_else(|_| {
        tracing::warn!(index, "a header was left out: its name is not UTF-8");
        None
    })
}
