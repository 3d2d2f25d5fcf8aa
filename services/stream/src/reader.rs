//! Reading topics without a group: from the beginning or the end, to the end or for ever. Nothing is committed, and
//! no group appears on the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use unprompt_schemas::topics::Topic;
use uuid::Uuid;

use crate::config::KafkaConfig;
use crate::consumer::Names;
use crate::context::{self, LoggingContext, Refusals};
use crate::{InputRecord, StreamError, kafka, topics};

const POLL: Duration = Duration::from_millis(100);
/// Records read ahead of whoever takes them.
const READ_AHEAD: usize = 1_000;

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record kept.
    Beginning,
    /// With the first record that comes after this call.
    End,
}

/// What a reader's thread tells.
#[derive(Debug)]
pub(crate) enum ReaderEvent {
    Record(InputRecord),
    /// The end of a partition, as it was when the reader began, is reached.
    CaughtUp,
    Failed(StreamError),
}

/// Topics read by a thread each, which end when this is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    events: mpsc::Receiver<ReaderEvent>,
    stop: Arc<AtomicBool>,
    /// Partitions whose end, as it was at the start, is not reached yet.
    behind: usize,
}

impl Reader {
    /// Looks up where every partition of `topics` begins and ends, and starts to read.
    pub async fn start(kafka: &KafkaConfig, topics: &[Topic], start: Start) -> Result<Self, StreamError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, events) = mpsc::channel(READ_AHEAD);
        let (kafka, topics, stopped) = (kafka.clone(), topics.to_vec(), stop.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let prepare = |topic: &Topic| prepare(&kafka, *topic, start, tell.clone(), stopped.clone());
            topics.iter().map(prepare).collect::<Result<Vec<_>, _>>()
        });
        let threads = prepared.await.map_err(|_| StreamError::Stopped("opening a topic"))??;
        let behind = threads.iter().map(|thread| thread.ends.len()).sum();
        for thread in threads {
            let named = std::thread::Builder::new().name("reader".into());
            named.spawn(move || thread.run()).map_err(StreamError::Thread)?;
        }
        Ok(Self { events, stop, behind })
    }

    /// Whether all that was there at the start is read.
    pub fn is_caught_up(&self) -> bool {
        self.behind == 0
    }

    /// The next record; none, where the end as it was at the start was reached just now.
    pub async fn next(&mut self) -> Result<Option<InputRecord>, StreamError> {
        match self.events.recv().await {
            Some(ReaderEvent::Record(record)) => Ok(Some(record)),
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
    topic: String,
    consumer: BaseConsumer<LoggingContext>,
    names: Names,
    /// By partition: the end, as it was at the start, where it is not reached yet.
    ends: BTreeMap<i32, i64>,
    tell: mpsc::Sender<ReaderEvent>,
    stop: Arc<AtomicBool>,
}

fn prepare(
    kafka: &KafkaConfig,
    topic: Topic,
    start: Start,
    tell: mpsc::Sender<ReaderEvent>,
    stop: Arc<AtomicBool>,
) -> Result<ReaderThread, StreamError> {
    let name = kafka.prefix.name(topic);
    let consumer = assigned_consumer(kafka)?;
    let mut list = TopicPartitionList::new();
    let mut ends = BTreeMap::new();
    for partition in partitions(kafka, &consumer, &name, &stop)? {
        let (low, high) = topics::watermarks(kafka, &consumer, &name, partition)?;
        let from = if start == Start::Beginning { low } else { high };
        ends.extend((from < high).then_some((partition, high)));
        list.add_partition_offset(&name, partition, Offset::Offset(from)).map_err(StreamError::Client)?;
    }
    consumer.assign(&list).map_err(StreamError::Client)?;
    let (brokers, names) = (kafka.brokers.clone(), Names::new(&kafka.prefix));
    Ok(ReaderThread { brokers, topic: name, consumer, names, ends, tell, stop })
}

/// librdkafka wants a group even where none is joined; its name never reaches the broker's list.
fn assigned_consumer(kafka: &KafkaConfig) -> Result<BaseConsumer<LoggingContext>, StreamError> {
    let group = format!("{}unprompt-reader-{}", kafka.prefix.as_str(), Uuid::new_v4());
    let mut config = kafka::consumer(kafka, &group);
    config.set("enable.partition.eof", "true");
    config.create_with_context(LoggingContext::default()).map_err(StreamError::Client)
}

fn partitions(
    kafka: &KafkaConfig,
    consumer: &BaseConsumer<LoggingContext>,
    name: &str,
    abandoned: &AtomicBool,
) -> Result<Vec<i32>, StreamError> {
    let metadata = topics::metadata(kafka, consumer, Some(name), abandoned)?;
    let found = metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none());
    let ids: Vec<i32> =
        found.iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
    match ids.is_empty() {
        true => Err(StreamError::TopicMissing { topic: name.to_owned(), brokers: kafka.brokers.clone() }),
        false => Ok(ids),
    }
}

impl ReaderThread {
    /// Waits for a place in the channel: a reader belongs to no group that would miss it.
    fn tell(&self, event: ReaderEvent) -> bool {
        self.tell.blocking_send(event).is_ok()
    }

    fn run(mut self) {
        let mut refusals = Refusals::default();
        while !self.stop.load(Ordering::Relaxed) {
            let goes_on = match self.consumer.poll(POLL) {
                None => true,
                Some(Ok(message)) => match self.names.record(&message) {
                    Some(record) => self.on_record(record),
                    None => true,
                },
                // Where the last offsets are not records (transaction markers), only this says that it is the end.
                Some(Err(KafkaError::PartitionEOF(partition))) => self.reached(partition),
                Some(Err(error)) if !refusals.are_final(&error) && context::may_pass(&error) => {
                    context::log_error(&error, "the reader goes on");
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
        match context::rejects_credentials(&source) {
            true => self.consumer.context().trouble.explain(&self.brokers, source),
            false => StreamError::Read { topic: self.topic.clone(), source },
        }
    }

    fn on_record(&mut self, record: InputRecord) -> bool {
        let (partition, next) = (record.partition, record.offset + 1);
        let told = self.tell(ReaderEvent::Record(record));
        match self.ends.get(&partition) {
            Some(end) if next >= *end => told && self.reached(partition),
            _ => told,
        }
    }

    fn reached(&mut self, partition: i32) -> bool {
        self.ends.remove(&partition).is_none() || self.tell(ReaderEvent::CaughtUp)
    }
}

/// What [`read_to_end`] read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSummary {
    pub records: u64,
    pub bytes: u64,
}

/// Reads topics from the beginning to the end as it is now, and hands every record to `f`: in order within a
/// partition, partitions and topics as they come.
///
/// # Errors
///
/// [`StreamError::TopicMissing`], [`StreamError::Unreachable`], [`StreamError::Read`].
pub async fn read_to_end(
    kafka: &KafkaConfig,
    topics: &[Topic],
    mut f: impl FnMut(InputRecord),
) -> Result<ReadSummary, StreamError> {
    let mut reader = Reader::start(kafka, topics, Start::Beginning).await?;
    let mut summary = ReadSummary::default();
    while !reader.is_caught_up() {
        if let Some(record) = reader.next().await? {
            summary.records += 1;
            summary.bytes += record.size_bytes() as u64;
            f(record);
        }
    }
    Ok(summary)
}

/// Follows topics, all of their partitions, for ever.
#[derive(Debug)]
pub struct Tail(Reader);

impl Tail {
    /// Opens the topics. With [`Start::End`], whatever is published after this returns is seen.
    ///
    /// # Errors
    ///
    /// [`StreamError::TopicMissing`], [`StreamError::Unreachable`].
    pub async fn new(kafka: &KafkaConfig, topics: &[Topic], start: Start) -> Result<Self, StreamError> {
        Ok(Self(Reader::start(kafka, topics, start).await?))
    }

    /// Waits for the next record. It may be dropped and called again without losing one.
    ///
    /// # Errors
    ///
    /// [`StreamError::Read`]; a broker that is away is waited for.
    pub async fn next(&mut self) -> Result<InputRecord, StreamError> {
        loop {
            if let Some(record) = self.0.next().await? {
                return Ok(record);
            }
        }
    }

    /// Whether all that was there when it was opened has been taken.
    pub fn is_caught_up(&self) -> bool {
        self.0.is_caught_up()
    }
}
