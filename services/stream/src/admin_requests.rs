//! Admin requests that rdkafka does not wrap: the ids of topics, and the committed offsets of a
//! group with their metadata.
//!
//! librdkafka answers into a queue of the request's own, so an answer can be waited for, or asked
//! after now and then, on any thread. What an answer means is not decided here.
#![allow(unsafe_code, reason = "librdkafka's own functions are the only way to make these requests")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use rdkafka::bindings::*;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult, RDKafkaErrorCode};

/// The id of a topic, as Kafka's tools print it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TopicId(String);

impl TopicId {
    /// Takes librdkafka's text, in the alphabet of base64. Kafka's is that of URLs.
    pub fn from_base64(text: &str) -> Self {
        Self(text.replace('+', "-").replace('/', "_"))
    }
}

impl Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of a topic on the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicStatus {
    /// It exists, and the broker gives it this id.
    Identified(TopicId),
    /// The broker knows no topic of this name.
    Missing,
    /// The broker does not say: it gives no ids, or we may not see the topic.
    Unknown,
}

/// Topics by their names on the broker.
pub(crate) type Described = Vec<(String, TopicStatus)>;

/// A committed offset of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The topic's name on the broker.
    pub topic: String,
    pub partition: i32,
    /// `None` if the group has committed none.
    pub offset: Option<i64>,
    /// The text that was committed with the offset.
    pub metadata: String,
}

/// A request in progress. Dropping it drops its answer.
pub(crate) struct Request<'c, T> {
    queue: Queue<'c>,
    parse: fn(&Event) -> KafkaResult<T>,
}

impl<T> Request<'_, T> {
    /// Returns the answer, or `None` if it does not arrive within `patience`. There is one answer;
    /// after the request's own timeout it is an error.
    pub fn answer(&self, patience: Duration) -> Option<KafkaResult<T>> {
        let event = self.queue.poll(patience)?;
        Some(event.failure().map_or_else(|| (self.parse)(&event), Err))
    }
}

/// Asks a broker for the ids of topics, or the controller if none is given, within `timeout`.
pub(crate) fn describe_topics<'c, C: ClientContext>(
    client: &'c Client<C>,
    names: impl IntoIterator<Item = impl AsRef<str>>,
    broker: Option<i32>,
    timeout: Duration,
) -> KafkaResult<Request<'c, Described>> {
    let names: Vec<CString> = names.into_iter().map(|name| text(name.as_ref())).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let queue = Queue::new(client);
    let options = Options::new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout);
    if let Some(broker) = broker {
        options.set_broker(broker);
    }
    // SAFETY: `pointers` holds as many C strings as its length says, and librdkafka copies them.
    // The collection is freed once, after librdkafka has copied it into the request. Client, options
    // and queue are alive.
    unsafe {
        let topics = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        rd_kafka_DescribeTopics(client.native_ptr(), topics, options.0.as_ptr(), queue.handle.as_ptr());
        rd_kafka_TopicCollection_destroy(topics);
    }
    Ok(Request { queue, parse: described })
}

/// Asks for the offsets that `group` has committed for `partitions`, within `timeout`. With
/// `stable`, the answer waits for the transactions that are about to commit some.
pub(crate) fn committed_offsets<'c, C: ClientContext>(
    client: &'c Client<C>,
    group: &str,
    partitions: impl IntoIterator<Item = (impl AsRef<str>, i32)>,
    stable: bool,
    timeout: Duration,
) -> KafkaResult<Request<'c, Vec<Committed>>> {
    let (group, list) = (text(group)?, Partitions::new(partitions)?);
    let queue = Queue::new(client);
    let options =
        Options::new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, timeout);
    // SAFETY: group, partitions, client, options and queue are alive, and librdkafka copies the
    // first two and the options. The array holds the one request that its length says; the request
    // is freed once, after librdkafka has copied it. An error about the option, which every version
    // of it takes, is freed too.
    unsafe {
        let refused =
            rd_kafka_AdminOptions_set_require_stable_offsets(options.0.as_ptr(), c_int::from(stable));
        rd_kafka_error_destroy(refused);
        let mut asked = [rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), list.0.as_ptr())];
        let (client, queue) = (client.native_ptr(), queue.handle.as_ptr());
        rd_kafka_ListConsumerGroupOffsets(client, asked.as_mut_ptr(), 1, options.0.as_ptr(), queue);
        rd_kafka_ListConsumerGroupOffsets_destroy(asked[0]);
    }
    Ok(Request { queue, parse: committed })
}

fn described(event: &Event) -> KafkaResult<Described> {
    let mut count = 0;
    // SAFETY: the event is alive and, being the answer to this request, holds such a result. The
    // result's array, topics and strings live as long as the event, and are copied before it ends.
    // The array may hold a null pointer for a topic that the broker has left out.
    unsafe {
        let result = rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
        if result.is_null() {
            return Err(unexpected());
        }
        let topics = rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let topics = (0..count).filter_map(|index| NonNull::new((*topics.add(index)).cast_mut()));
        Ok(topics.map(|topic| described_topic(topic)).collect())
    }
}

/// # Safety
///
/// The event that the topic belongs to is alive.
unsafe fn described_topic(topic: NonNull<rd_kafka_TopicDescription_t>) -> (String, TopicStatus) {
    // SAFETY: the topic, and with it its name, its id and its error, are alive. librdkafka accepts
    // a null pointer for no error.
    unsafe {
        let name = lossy(rd_kafka_TopicDescription_name(topic.as_ptr()));
        let error = rd_kafka_error_code(rd_kafka_TopicDescription_error(topic.as_ptr()));
        let status = match RDKafkaErrorCode::from(error) {
            RDKafkaErrorCode::NoError => identified(rd_kafka_TopicDescription_topic_id(topic.as_ptr())),
            RDKafkaErrorCode::UnknownTopicOrPartition => TopicStatus::Missing,
            _ => TopicStatus::Unknown,
        };
        (name, status)
    }
}

/// # Safety
///
/// The id is null or alive.
unsafe fn identified(id: *const rd_kafka_Uuid_t) -> TopicStatus {
    // SAFETY: an id that is not null is alive; its text lives as long as the id.
    unsafe {
        let is_none = id.is_null()
            || (rd_kafka_Uuid_most_significant_bits(id), rd_kafka_Uuid_least_significant_bits(id)) == (0, 0);
        match is_none {
            true => TopicStatus::Unknown,
            false => TopicStatus::Identified(TopicId::from_base64(&lossy(rd_kafka_Uuid_base64str(id)))),
        }
    }
}

fn committed(event: &Event) -> KafkaResult<Vec<Committed>> {
    let mut count = 0;
    // SAFETY: the event is alive and, being the answer to this request, holds such a result. The
    // result's groups, lists and strings live as long as the event, and are copied before it ends.
    unsafe {
        let result = rd_kafka_event_ListConsumerGroupOffsets_result(event.0.as_ptr());
        if result.is_null() {
            return Err(unexpected());
        }
        let groups = rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count);
        if count == 0 {
            return Err(unexpected());
        }
        let group = *groups;
        let error = rd_kafka_error_code(rd_kafka_group_result_error(group));
        if error.is_error() {
            return Err(KafkaError::Global(error.into()));
        }
        let list = rd_kafka_group_result_partitions(group);
        let count = usize::try_from((*list).cnt).unwrap_or_default();
        (0..count).map(|index| committed_partition(&*(*list).elems.add(index))).collect()
    }
}

/// # Safety
///
/// The event that the partition belongs to is alive.
unsafe fn committed_partition(partition: &rd_kafka_topic_partition_t) -> KafkaResult<Committed> {
    if partition.err.is_error() {
        return Err(KafkaError::Global(partition.err.into()));
    }
    let metadata = match partition.metadata.is_null() {
        true => &[],
        // SAFETY: the metadata is alive and has as many bytes as its size says.
        false => unsafe {
            std::slice::from_raw_parts(partition.metadata.cast::<u8>(), partition.metadata_size)
        },
    };
    Ok(Committed {
        // SAFETY: the name is alive.
        topic: unsafe { lossy(partition.topic) },
        partition: partition.partition,
        offset: (partition.offset >= 0).then_some(partition.offset),
        metadata: String::from_utf8_lossy(metadata).into_owned(),
    })
}

fn unexpected() -> KafkaError {
    KafkaError::Global(RDKafkaErrorCode::BadMessage)
}

fn text(text: &str) -> KafkaResult<CString> {
    CString::new(text).map_err(KafkaError::from)
}

/// # Safety
///
/// `text` is null or a C string that is alive.
unsafe fn lossy(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: it is a C string that is alive.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A queue for one answer. It must not outlive its client.
struct Queue<'c> {
    handle: NonNull<rd_kafka_queue_t>,
    client: PhantomData<&'c ()>,
}

impl<'c> Queue<'c> {
    fn new<C: ClientContext>(client: &'c Client<C>) -> Self {
        // SAFETY: the client is alive.
        let handle = unsafe { rd_kafka_queue_new(client.native_ptr()) };
        let handle = NonNull::new(handle).expect("librdkafka ends the process where memory ends");
        Self { handle, client: PhantomData }
    }

    fn poll(&self, patience: Duration) -> Option<Event> {
        let patience_ms = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive, and the event is freed by its guard.
        NonNull::new(unsafe { rd_kafka_queue_poll(self.handle.as_ptr(), patience_ms) }).map(Event)
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        // SAFETY: it is freed once, and its client is alive.
        unsafe { rd_kafka_queue_destroy(self.handle.as_ptr()) }
    }
}

/// An answer.
struct Event(NonNull<rd_kafka_event_t>);

impl Event {
    fn failure(&self) -> Option<KafkaError> {
        // SAFETY: the event is alive.
        let error = unsafe { rd_kafka_event_error(self.0.as_ptr()) };
        error.is_error().then(|| KafkaError::Global(error.into()))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

/// The options of a request.
struct Options(NonNull<rd_kafka_AdminOptions_t>);

impl Options {
    fn new<C: ClientContext>(client: &Client<C>, request: rd_kafka_admin_op_t, timeout: Duration) -> Self {
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the client is alive, and the options are freed by their guard. No text is wanted
        // for an error, which only a timeout out of range could cause.
        unsafe {
            let options = NonNull::new(rd_kafka_AdminOptions_new(client.native_ptr(), request))
                .expect("librdkafka ends the process where memory ends");
            rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), timeout_ms, null_mut(), 0);
            Self(options)
        }
    }
}

impl Options {
    fn set_broker(&self, broker: i32) {
        // SAFETY: the options are alive. No text is wanted for an error, which only a negative
        // number could cause.
        unsafe { rd_kafka_AdminOptions_set_broker(self.0.as_ptr(), broker, null_mut(), 0) };
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: they are freed once; librdkafka has copied them into the request.
        unsafe { rd_kafka_AdminOptions_destroy(self.0.as_ptr()) }
    }
}

/// A list of partitions.
struct Partitions(NonNull<rd_kafka_topic_partition_list_t>);

impl Partitions {
    fn new(partitions: impl IntoIterator<Item = (impl AsRef<str>, i32)>) -> KafkaResult<Self> {
        // SAFETY: the list is freed by its guard.
        let list = NonNull::new(unsafe { rd_kafka_topic_partition_list_new(0) });
        let list = Self(list.expect("librdkafka ends the process where memory ends"));
        for (topic, partition) in partitions {
            let topic = text(topic.as_ref())?;
            // SAFETY: list and name are alive, and librdkafka copies the name.
            unsafe { rd_kafka_topic_partition_list_add(list.0.as_ptr(), topic.as_ptr(), partition) };
        }
        Ok(list)
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}
