//! Tells a topic from an earlier one of the same name, by the id that the broker gives it.
//!
//! A topic that is deleted and recreated starts at offset 0. librdkafka continues at the offset it
//! had reached in the old one, and the group's committed offsets may come back after the broker has
//! removed them: records of the new topic would be skipped. So the ids of a service's topics are
//! checked regularly, and every committed offset carries the id of its topic.
//!
//! A broker that gives no ids leaves them all unknown. If such a topic ends before the old offset,
//! reading restarts as `auto.offset.reset` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use unprompt_schemas::topics::{Prefix, Topic};

use crate::admin_requests::{self, Committed, Described, Request, TopicId, TopicStatus};
use crate::offsets::TopicPartition;

/// The pause between two checks of the ids.
const INTERVAL: Duration = Duration::from_secs(2);
/// A broker's time for an answer. After it, another broker is asked.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The time for finding another broker while records wait to be polled.
const BRIEFLY: Duration = Duration::from_millis(100);
/// No broker.
const NONE: i32 = -1;
/// The prefix of the id in the metadata of a committed offset.
const STAMP: &str = "topic-id=";

/// A topic that was deleted, and recreated if it has an id now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicChange {
    pub topic: Topic,
    pub was: Option<TopicId>,
    pub now: Option<TopicId>,
}

/// The ids by which a run knows its topics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct TopicIds {
    prefix: Prefix,
    topics: Arc<BTreeMap<String, Topic>>,
    known: Arc<Mutex<Known>>,
    /// The broker that is asked. By itself, librdkafka asks the controller, and waits where there is
    /// none at the moment.
    broker: Arc<AtomicI32>,
}

#[derive(Debug, Default)]
struct Known {
    ids: BTreeMap<Topic, TopicId>,
    /// Topics that were recreated, and their partitions that were assigned since. A partition
    /// assigned later may still have the offset of a member that detected it later, and not every
    /// broker returns the ids that offsets were committed with: the embedded one does not.
    renewed: BTreeMap<Topic, BTreeSet<i32>>,
}

impl TopicIds {
    /// Watches `topics`, whose ids are unknown at first.
    pub fn new(prefix: &Prefix, topics: impl IntoIterator<Item = Topic>) -> Self {
        let topics = topics.into_iter().map(|topic| (prefix.name(topic), topic)).collect();
        Self {
            prefix: prefix.clone(),
            topics: Arc::new(topics),
            known: Arc::default(),
            broker: Arc::new(NONE.into()),
        }
    }

    /// Asks the broker for the topics' ids.
    pub fn ask<'c, C: ClientContext>(&self, client: &'c Client<C>) -> KafkaResult<Request<'c, Described>> {
        let broker = Some(self.broker.load(Ordering::Relaxed)).filter(|broker| *broker != NONE);
        admin_requests::describe_topics(client, self.topics.keys(), broker, TIMEOUT)
    }

    /// Chooses a broker that answers within `patience`.
    fn choose_broker<C: ClientContext>(&self, client: &Client<C>, patience: Duration) -> KafkaResult<()> {
        let topic = self.topics.keys().next().map(String::as_str);
        let metadata = client.fetch_metadata(topic, patience)?;
        // A broker that was reached by its bootstrap address has no id there yet.
        let first = || metadata.brokers().first().map(|broker| broker.id());
        let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0).or_else(first);
        self.broker.store(answered.unwrap_or(NONE), Ordering::Relaxed);
        Ok(())
    }

    /// Asks the broker for the topics' ids, waits for them, and returns the topics that have changed.
    pub fn look<C: ClientContext>(&self, client: &Client<C>) -> KafkaResult<Vec<TopicChange>> {
        self.choose_broker(client, TIMEOUT)?;
        let answer = self.ask(client)?.answer(TIMEOUT);
        let late = || Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut));
        self.changes(answer.unwrap_or_else(late))
    }

    /// Returns the topics whose ids in the answer are not those known; ids that are seen for the
    /// first time become known. A broker that does not understand the request changes nothing.
    pub fn changes(&self, answer: KafkaResult<Described>) -> KafkaResult<Vec<TopicChange>> {
        let described = match answer {
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnsupportedFeature) => {
                return Ok(Vec::new());
            }
            answer => answer?,
        };
        let change = |(name, status): (String, TopicStatus)| match (self.topics.get(&name), status) {
            (Some(topic), TopicStatus::Identified(id)) => self.note(*topic, id),
            _ => None,
        };
        Ok(described.into_iter().filter_map(change).collect())
    }

    fn note(&self, topic: Topic, now: TopicId) -> Option<TopicChange> {
        let mut known = self.known.lock();
        let was = known.ids.entry(topic).or_insert_with(|| now.clone()).clone();
        (was != now).then_some(TopicChange { topic, was: Some(was), now: Some(now) })
    }

    /// Treats the topics as new: the next id seen is accepted, and offsets committed without an id
    /// belong to the old topics.
    pub fn renew(&self, changes: &[TopicChange]) {
        let mut known = self.known.lock();
        for TopicChange { topic, .. } in changes {
            known.ids.remove(topic);
            known.renewed.insert(*topic, BTreeSet::new());
        }
    }

    /// Notes that these partitions, which were assigned, start where they should.
    pub fn settled(&self, partitions: impl IntoIterator<Item = TopicPartition>) {
        let mut known = self.known.lock();
        for TopicPartition { topic, partition } in partitions {
            if let Some(settled) = known.renewed.get_mut(&topic) {
                settled.insert(partition);
            }
        }
    }

    /// Returns the id of a topic, if it is known.
    pub fn id(&self, topic: Topic) -> Option<TopicId> {
        self.known.lock().ids.get(&topic).cloned()
    }

    /// Returns the topic of this name on the broker, if it is one of these.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        self.topics.get(name).copied()
    }

    /// Returns whether a partition must be read from its start, because the offset that the group
    /// has committed, if any, is one of an earlier topic.
    pub fn is_outdated(&self, committed: &Committed) -> bool {
        let Some(topic) = self.topic(&committed.topic) else { return false };
        let stamp = committed.offset.and_then(|_| committed.metadata.strip_prefix(STAMP));
        let known = self.known.lock();
        match (stamp, known.ids.get(&topic)) {
            (Some(stamp), Some(id)) => stamp != id.to_string(),
            _ => known.renewed.get(&topic).is_some_and(|settled| !settled.contains(&committed.partition)),
        }
    }

    /// Returns the list that commits `offsets`, each with the id of its topic.
    pub fn commit_list(&self, offsets: &[(TopicPartition, i64)]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (TopicPartition { topic, partition }, offset) in offsets {
            let mut element = list.add_partition(&self.prefix.name(*topic), *partition);
            element
                .set_offset(Offset::Offset(*offset))
                .expect("an offset that was read is a valid offset to commit");
            if let Some(id) = self.id(*topic) {
                element.set_metadata(format!("{STAMP}{id}"));
            }
        }
        list
    }
}

/// Checks the ids of topics every few seconds, without waiting for the answer.
pub(crate) struct TopicWatch<'c, C: ClientContext> {
    client: &'c Client<C>,
    ids: TopicIds,
    asked: Option<Request<'c, Described>>,
    next: Instant,
    /// Topics that were missing at the last check. One check may hit a broker that has just
    /// started.
    missing: BTreeSet<Topic>,
}

impl<'c, C: ClientContext> TopicWatch<'c, C> {
    pub fn new(client: &'c Client<C>, ids: TopicIds) -> Self {
        Self { client, ids, asked: None, next: Instant::now(), missing: BTreeSet::new() }
    }

    /// Returns the topics that were found to have changed since the last call. Call it often.
    pub fn look(&mut self) -> Vec<TopicChange> {
        let answer = match &self.asked {
            Some(asked) => asked.answer(Duration::ZERO),
            None if self.next <= Instant::now() => {
                self.ask();
                None
            }
            None => None,
        };
        answer.map(|answer| self.on_answer(answer)).unwrap_or_default()
    }

    fn ask(&mut self) {
        match self.ids.ask(self.client) {
            Ok(asked) => self.asked = Some(asked),
            Err(error) => self.failed(&error),
        }
    }

    fn on_answer(&mut self, answer: KafkaResult<Described>) -> Vec<TopicChange> {
        self.asked = None;
        self.next = Instant::now() + INTERVAL;
        let gone = answer.as_ref().map(|described| self.gone(described)).unwrap_or_default();
        match self.ids.changes(answer) {
            Ok(changes) => changes.into_iter().chain(gone).collect(),
            Err(error) => {
                self.failed(&error);
                Vec::new()
            }
        }
    }

    /// Returns the topics that are missing for the second time in a row.
    fn gone(&mut self, described: &Described) -> Vec<TopicChange> {
        let is_missing = |status: &TopicStatus| *status == TopicStatus::Missing;
        let missing = described.iter().filter(|(_, status)| is_missing(status));
        let missing: BTreeSet<Topic> = missing.filter_map(|(name, _)| self.ids.topic(name)).collect();
        let before = std::mem::replace(&mut self.missing, missing);
        let gone = self.missing.intersection(&before);
        gone.map(|topic| TopicChange { topic: *topic, was: self.ids.id(*topic), now: None }).collect()
    }

    /// An unreachable broker is reported elsewhere.
    fn failed(&mut self, error: &KafkaError) {
        // Without an answer here, the next failure tries again.
        let _ = self.ids.choose_broker(self.client, BRIEFLY);
        self.next = Instant::now() + INTERVAL;
        tracing::debug!(%error, "the topic ids are unknown; asking again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: &str = "images.v1";

    fn ids() -> TopicIds {
        TopicIds::new(&Prefix::default(), [Topic::Images, Topic::Heads])
    }

    fn id(text: &str) -> TopicId {
        TopicId::from_base64(text)
    }

    fn seen(text: &str) -> KafkaResult<Described> {
        Ok(vec![(IMAGES.to_owned(), TopicStatus::Identified(id(text)))])
    }

    fn committed(offset: Option<i64>, metadata: &str) -> Committed {
        Committed { topic: IMAGES.to_owned(), partition: 0, offset, metadata: metadata.to_owned() }
    }

    #[test]
    fn a_topic_id_is_printed_as_in_kafkas_tools() {
        assert_eq!(id("ab+/Z9").to_string(), "ab-_Z9");
    }

    #[test]
    fn another_id_is_a_change_until_the_topic_is_renewed() {
        let ids = ids();
        assert!(ids.changes(seen("old")).unwrap().is_empty(), "the first id is taken as it is");
        assert!(ids.changes(seen("old")).unwrap().is_empty());
        let changes = ids.changes(seen("new")).unwrap();
        let change = TopicChange { topic: Topic::Images, was: Some(id("old")), now: Some(id("new")) };
        assert_eq!(changes, [change]);
        ids.renew(&changes);
        assert!(ids.changes(seen("new")).unwrap().is_empty());
        assert_eq!(ids.id(Topic::Images), Some(id("new")));
    }

    #[test]
    fn a_topic_without_an_id_is_never_a_change() {
        let ids = ids();
        ids.changes(seen("old")).unwrap();
        let unknown = [TopicStatus::Unknown, TopicStatus::Missing].map(|status| (IMAGES.to_owned(), status));
        assert!(ids.changes(Ok(unknown.to_vec())).unwrap().is_empty());
        let refused = Err(KafkaError::Global(RDKafkaErrorCode::UnsupportedFeature));
        assert!(ids.changes(refused).unwrap().is_empty());
        assert!(ids.changes(Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut))).is_err());
    }

    #[test]
    fn a_committed_offset_is_outdated_in_a_topic_with_another_id() {
        let ids = ids();
        ids.changes(seen("now")).unwrap();
        let list = ids.commit_list(&[(TopicPartition { topic: Topic::Images, partition: 0 }, 4)]);
        let stamp = list.elements()[0].metadata().to_owned();
        assert!(!ids.is_outdated(&committed(Some(4), &stamp)));
        assert!(ids.is_outdated(&committed(Some(4), "topic-id=earlier")));
        assert!(!ids.is_outdated(&committed(Some(4), "")), "another tool, or an earlier version, set it");
        assert!(!ids.is_outdated(&committed(None, "")), "auto.offset.reset decides");
    }

    #[test]
    fn commits_without_an_id_are_outdated_once_per_partition_after_a_renewal() {
        let ids = ids();
        let change = TopicChange { topic: Topic::Images, was: None, now: None };
        ids.renew(&[change]);
        ids.changes(seen("now")).unwrap();
        assert!(ids.is_outdated(&committed(Some(4), "")) && ids.is_outdated(&committed(None, "")));
        assert!(!ids.is_outdated(&committed(Some(4), "topic-id=now")), "another member goes before us");
        ids.settled([TopicPartition { topic: Topic::Images, partition: 0 }]);
        assert!(!ids.is_outdated(&committed(Some(4), "")));
        let later = Committed { partition: 1, ..committed(Some(4), "") };
        assert!(ids.is_outdated(&later), "another partition is assigned later");
    }
}
