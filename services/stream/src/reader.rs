//! Reads topics without a consumer group: from the beginning or the end, up to the end or forever.
//!
//! Nothing is committed, and no group appears on the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use unprompt_schemas::topics::Topic;
use uuid::Uuid;

use crate::admin_requests::TopicId;
use crate::config::KafkaConfig;
use crate::connection::{self, CredentialRefusals, LoggingContext};
use crate::consumer::Names;
use crate::topic_ids::{TopicChange, TopicIds, TopicWatch};
use crate::{InputRecord, StreamError, kafka, topic_admin};

const POLL: Duration = Duration::from_millis(100);
/// The number of records read ahead of the receiver, at most.
const READ_AHEAD: usize = 1_000;
/// Their total size, at most. A receiver that pauses or is slow must not fill the memory.
const READ_AHEAD_KIB: usize = 64 << 10;

/// The position at which a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that the broker still has.
    Beginning,
    /// At the first record published after this call.
    End,
    /// That many offsets before the end of each partition.
    Last(i64),
}

/// The events of a reader's thread.
#[derive(Debug)]
pub(crate) enum ReaderEvent {
    /// A record with its share of the read-ahead limit, which is released when the record is taken.
    Record(InputRecord, OwnedSemaphorePermit),
    /// A partition has been read to the end that it had at the start.
    CaughtUp,
    Failed(StreamError),
}

/// The channel from the threads to the receiver, bounded by record count and bytes. Clones share
/// the limits.
#[derive(Clone, Debug)]
struct Ahead {
    events: mpsc::Sender<ReaderEvent>,
    room: Arc<Semaphore>,
}

impl Ahead {
    fn new() -> (Self, mpsc::Receiver<ReaderEvent>) {
        let (events, taken) = mpsc::channel(READ_AHEAD);
        (Self { events, room: Arc::new(Semaphore::new(READ_AHEAD_KIB)) }, taken)
    }

    /// Waits for room and sends a record; false if the receiver is gone. A record larger than the
    /// byte limit passes alone.
    async fn record(&self, record: InputRecord) -> bool {
        let kib = record.memory_bytes().div_ceil(1 << 10).clamp(1, READ_AHEAD_KIB);
        match self.room.clone().acquire_many_owned(kib as u32).await {
            Ok(permit) => self.tell(ReaderEvent::Record(record, permit)).await,
            Err(_) => false,
        }
    }

    async fn tell(&self, event: ReaderEvent) -> bool {
        self.events.send(event).await.is_ok()
    }
}

/// Topics being read, each on its own thread. The threads end when this is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    events: mpsc::Receiver<ReaderEvent>,
    stop: Arc<AtomicBool>,
    /// The number of partitions not yet read to the end that they had at the start.
    behind: usize,
    /// The offset after the last record of every partition at the start. Topics share it by
    /// partition, so it means something for one topic only.
    pub ends: BTreeMap<i32, i64>,
    /// The id of the topic at the start, if the broker gives ids. Means something for one topic only.
    pub id: Option<TopicId>,
}

impl Reader {
    /// Looks up where every partition of `topics` begins and ends, and starts to read.
    pub async fn start(kafka: &KafkaConfig, topics: &[Topic], start: Start) -> Result<Self, StreamError> {
        let (ahead, events) = Ahead::new();
        // If this is dropped while it opens, the thread that looks up the topics ends too.
        let mut reader = Self { events, stop: Arc::default(), behind: 0, ends: BTreeMap::new(), id: None };
        let (kafka, topics, stopped) = (kafka.clone(), topics.to_vec(), reader.stop.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let prepare = |topic: &Topic| prepare(&kafka, *topic, start, ahead.clone(), stopped.clone());
            topics.iter().map(prepare).collect::<Result<Vec<_>, _>>()
        });
        let threads = prepared.await.map_err(|_| StreamError::Stopped("opening a topic"))??;
        reader.behind = threads.iter().map(|thread| thread.ends.len()).sum();
        for mut thread in threads {
            reader.ends.append(&mut thread.highs);
            reader.id = thread.ids.id(thread.topic);
            let named = std::thread::Builder::new().name("reader".into());
            named.spawn(move || thread.run()).map_err(StreamError::Thread)?;
        }
        Ok(reader)
    }

    /// A reader of a test's events, which is caught up after `behind` ends.
    #[cfg(test)]
    pub fn of(events: mpsc::Receiver<ReaderEvent>, behind: usize) -> Self {
        Self { events, stop: Arc::default(), behind, ends: BTreeMap::new(), id: None }
    }

    /// Returns whether everything that was there at the start has been read.
    pub fn is_caught_up(&self) -> bool {
        self.behind == 0
    }

    /// Returns the next record; `None` if a partition has just reached the end that
    /// it had at the start.
    pub async fn next(&mut self) -> Result<Option<InputRecord>, StreamError> {
        match self.events.recv().await {
            Some(ReaderEvent::Record(record, permit)) => {
                drop(permit);
                Ok(Some(record))
            }
            Some(ReaderEvent::CaughtUp) => {
                self.behind = self.behind.saturating_sub(1);
                Ok(None)
            }
            Some(ReaderEvent::Failed(error)) => Err(error),
            None => Err(StreamError::Stopped("reading a topic")),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct ReaderThread {
    brokers: String,
    topic: Topic,
    consumer: Arc<BaseConsumer<LoggingContext>>,
    names: Names,
    ids: TopicIds,
    /// The end of each partition at the start, kept until it is reached.
    ends: BTreeMap<i32, i64>,
    /// The end of every partition at the start.
    highs: BTreeMap<i32, i64>,
    ahead: Ahead,
    stop: Arc<AtomicBool>,
}

fn prepare(
    kafka: &KafkaConfig,
    topic: Topic,
    start: Start,
    ahead: Ahead,
    stop: Arc<AtomicBool>,
) -> Result<ReaderThread, StreamError> {
    let name = kafka.prefix.name(topic);
    let consumer = assigned_consumer(kafka)?;
    let mut list = TopicPartitionList::new();
    let (mut ends, mut highs) = (BTreeMap::new(), BTreeMap::new());
    let partitions = partitions(kafka, &consumer, &name, &stop)?;
    // Before the ends are looked up: a topic that replaces this one in between is detected.
    let ids = TopicIds::new(&kafka.prefix, [topic]);
    ids.look(consumer.client()).map_err(|error| connection::explain(kafka, &consumer, error))?;
    for partition in partitions {
        let (low, high) = topic_admin::watermarks(kafka, &consumer, &name, partition)?;
        let from = match start {
            Start::Beginning => low,
            Start::Last(count) => high.saturating_sub(count).max(low),
            Start::End => high,
        };
        ends.extend((from < high).then_some((partition, high)));
        highs.insert(partition, high);
        list.add_partition_offset(&name, partition, Offset::Offset(from)).map_err(StreamError::client)?;
    }
    consumer.assign(&list).map_err(StreamError::client)?;
    let (brokers, names) = (kafka.brokers.clone(), Names::new(&kafka.prefix));
    Ok(ReaderThread { brokers, topic, consumer: Arc::new(consumer), names, ids, ends, highs, ahead, stop })
}

/// Makes a consumer that joins no group. librdkafka requires a group name all the same; it never
/// appears in the broker's list.
fn assigned_consumer(kafka: &KafkaConfig) -> Result<BaseConsumer<LoggingContext>, StreamError> {
    let group = format!("{}unprompt-reader-{}", kafka.prefix.as_str(), Uuid::new_v4());
    let mut config = kafka::consumer(kafka, &group);
    config.set("enable.partition.eof", "true");
    config.create_with_context(LoggingContext::default()).map_err(StreamError::client)
}

fn partitions(
    kafka: &KafkaConfig,
    consumer: &BaseConsumer<LoggingContext>,
    name: &str,
    abandoned: &AtomicBool,
) -> Result<Vec<i32>, StreamError> {
    let metadata = topic_admin::metadata(kafka, consumer, Some(name), abandoned)?;
    let found = metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none());
    let ids: Vec<i32> =
        found.iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
    match ids.is_empty() {
        true => Err(StreamError::TopicMissing { topic: name.to_owned(), brokers: kafka.brokers.clone() }),
        false => Ok(ids),
    }
}

impl ReaderThread {
    /// Sends an event, waiting for room in the channel. The wait is harmless: a reader belongs to
    /// no group that would miss it.
    fn tell(&self, event: ReaderEvent) -> bool {
        block_on(self.ahead.tell(event))
    }

    fn run(mut self) {
        let (mut refusals, consumer) = (CredentialRefusals::default(), self.consumer.clone());
        let mut topics = TopicWatch::new(consumer.client(), self.ids.clone());
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(change) = topics.look().pop() {
                self.tell(ReaderEvent::Failed(self.deleted(change)));
                return;
            }
            let goes_on = match consumer.poll(POLL) {
                None => true,
                Some(Ok(message)) => match self.names.record(&message) {
                    Some(record) => self.on_record(record),
                    None => true,
                },
                // If the last offsets are transaction markers, not records, only this
                // event shows the end.
                Some(Err(KafkaError::PartitionEOF(partition))) => self.reached(partition),
                Some(Err(error)) if !refusals.are_final(&error) && connection::may_pass(&error) => {
                    connection::log_error(&error, "the reader continues");
                    true
                }
                Some(Err(source)) => self.tell(ReaderEvent::Failed(self.failure(source))),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn failure(&self, source: KafkaError) -> StreamError {
        match connection::rejects_credentials(&source) {
            true => self.consumer.context().connection.explain(&self.brokers, source),
            false => StreamError::Read { topic: self.names.name(self.topic), source },
        }
    }

    fn deleted(&self, TopicChange { topic, was, now }: TopicChange) -> StreamError {
        let topic = self.names.name(topic);
        match (was, now) {
            (Some(was), Some(now)) => {
                StreamError::TopicReplaced { topic, was: was.to_string(), now: now.to_string() }
            }
            _ => StreamError::TopicMissing { topic, brokers: self.brokers.clone() },
        }
    }

    fn on_record(&mut self, record: InputRecord) -> bool {
        let (partition, next) = (record.partition, record.offset + 1);
        let told = block_on(self.ahead.record(record));
        match self.ends.get(&partition) {
            Some(end) if next >= *end => told && self.reached(partition),
            _ => told,
        }
    }

    fn reached(&mut self, partition: i32) -> bool {
        self.ends.remove(&partition).is_none() || self.tell(ReaderEvent::CaughtUp)
    }
}

/// The totals of [`read_to_end`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSummary {
    pub records: u64,
    pub bytes: u64,
}

/// Reads topics from the beginning to their current end, and hands every record to `f`. Each
/// partition is read in order; partitions and topics interleave freely.
///
/// # Errors
///
/// [`StreamError::TopicMissing`], [`StreamError::Unreachable`], [`StreamError::Read`].
pub async fn read_to_end(
    kafka: &KafkaConfig,
    topics: &[Topic],
    mut f: impl FnMut(InputRecord),
) -> Result<ReadSummary, StreamError> {
    let mut present = Present::open(kafka, topics).await?;
    let mut summary = ReadSummary::default();
    while let Some(record) = present.next().await? {
        summary.records += 1;
        summary.bytes += record.size_bytes() as u64;
        f(record);
    }
    Ok(summary)
}

/// Reads topics from the beginning to the end that they had at the start, one record at a time.
/// Each partition is read in order; partitions and topics interleave freely.
#[derive(Debug)]
pub struct Present(Reader);

impl Present {
    /// Looks up the ends and starts to read.
    ///
    /// # Errors
    ///
    /// [`StreamError::TopicMissing`], [`StreamError::Unreachable`].
    pub async fn open(kafka: &KafkaConfig, topics: &[Topic]) -> Result<Self, StreamError> {
        Ok(Self(Reader::start(kafka, topics, Start::Beginning).await?))
    }

    /// Returns the next record, or `None` after the last. The future may be dropped and the method
    /// called again without losing a record.
    ///
    /// # Errors
    ///
    /// [`StreamError::Read`]. An unreachable broker is not an error: the reader waits for it.
    pub async fn next(&mut self) -> Result<Option<InputRecord>, StreamError> {
        while !self.0.is_caught_up() {
            if let Some(record) = self.0.next().await? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

/// Follows all partitions of topics forever.
#[derive(Debug)]
pub struct Tail(Reader);

impl Tail {
    /// Opens the topics. With [`Start::End`], every record published after this returns is seen.
    ///
    /// # Errors
    ///
    /// [`StreamError::TopicMissing`], [`StreamError::Unreachable`].
    pub async fn new(kafka: &KafkaConfig, topics: &[Topic], start: Start) -> Result<Self, StreamError> {
        Ok(Self(Reader::start(kafka, topics, start).await?))
    }

    /// Waits for the next record. The future may be dropped and the method called again
    /// without losing a record.
    ///
    /// # Errors
    ///
    /// [`StreamError::Read`]. An unreachable broker is not an error: the reader waits for it.
    pub async fn next(&mut self) -> Result<InputRecord, StreamError> {
        loop {
            if let Some(record) = self.0.next().await? {
                return Ok(record);
            }
        }
    }

    /// Returns whether everything that was there when it was opened has been taken.
    pub fn is_caught_up(&self) -> bool {
        self.0.is_caught_up()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn record(value_bytes: usize) -> InputRecord {
        InputRecord { value: Some(vec![0; value_bytes]), ..InputRecord::new(Topic::Heads) }
    }

    #[test]
    fn read_ahead_is_bounded_by_bytes() {
        let (ahead, mut events) = Ahead::new();
        let tell = || ahead.record(record(20 << 20)).now_or_never();
        assert_eq!([tell(), tell(), tell()], [Some(true); 3]);
        assert_eq!(tell(), None, "four of them are more than 64 MiB");
        drop(events.try_recv().unwrap());
        assert_eq!((tell(), tell()), (Some(true), None), "one was taken");
    }

    #[test]
    fn a_record_larger_than_the_read_ahead_limit_passes_alone() {
        let (ahead, mut events) = Ahead::new();
        let tell = |bytes| ahead.record(record(bytes)).now_or_never();
        assert_eq!(tell((READ_AHEAD_KIB << 10) + 1), Some(true));
        assert_eq!(tell(1), None);
        drop(events.try_recv().unwrap());
        assert_eq!(tell(1), Some(true));
    }
}
