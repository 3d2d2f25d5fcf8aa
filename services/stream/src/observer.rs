//! Observes topics and consumer groups from outside, repeatedly, with the same clients. It joins no
//! group and changes nothing.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::Metadata;
use unprompt_schemas::topics::Topic;

use crate::config::KafkaConfig;
use crate::connection::{self, LoggingContext};
use crate::{StreamError, kafka, topic_admin};

/// The longest wait for one request. A caller that polls should learn soon that the broker is
/// unreachable.
const PATIENCE: Duration = Duration::from_secs(3);

type Client = BaseConsumer<LoggingContext>;

/// The topics of a broker, and the progress of its consumer groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The catalogue's topics, in its order.
    pub topics: Vec<TopicEnds>,
    /// The groups of the requested services, in the order of the request.
    pub groups: Vec<GroupState>,
}

/// The first and end offsets of the partitions of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEnds {
    pub topic: Topic,
    /// The name on the broker, prefix included.
    pub name: String,
    /// The first offset kept and the next offset to be written, by partition; empty if the
    /// topic does not exist.
    pub partitions: BTreeMap<i32, (i64, i64)>,
}

impl TopicEnds {
    /// Returns the number of offsets from the first kept to the next. It counts the records, and
    /// the offsets that compaction and transactions leave out.
    pub fn offsets(&self) -> i64 {
        self.partitions.values().map(|(low, high)| high - low).sum()
    }

    /// Returns the number of offsets ever written; it only grows.
    pub fn written(&self) -> i64 {
        self.partitions.values().map(|(_, high)| high).sum()
    }
}

/// A service's consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    pub service: String,
    /// The name on the broker, prefix included.
    pub group: String,
    /// Kafka's name of the state, such as `Stable`; `None` if the broker knows no such group or
    /// does not return its state.
    pub state: Option<String>,
    pub members: Vec<GroupMember>,
    /// The next offset of each partition of each of its topics, if one is committed.
    pub committed: BTreeMap<Topic, BTreeMap<i32, i64>>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    pub client_id: String,
    pub host: String,
}

impl GroupState {
    /// Returns the number of offsets of the topic that the group has not committed. A partition
    /// without a commit counts from the first offset kept.
    pub fn lag(&self, ends: &TopicEnds) -> i64 {
        let committed = self.committed.get(&ends.topic);
        let behind = |(partition, (low, high)): (&i32, &(i64, i64))| {
            let next = committed.and_then(|committed| committed.get(partition)).copied();
            high - next.unwrap_or(*low).clamp(*low, *high)
        };
        ends.partitions.iter().map(behind).sum()
    }

    /// Returns the number of offsets of the topic that the broker has deleted before the group
    /// committed them.
    pub fn expired(&self, ends: &TopicEnds) -> i64 {
        let committed = self.committed.get(&ends.topic);
        let gone = |(partition, (low, high)): (&i32, &(i64, i64))| {
            let next = committed.and_then(|committed| committed.get(partition)).copied();
            low - next.unwrap_or(*low).clamp(0, *high).min(*low)
        };
        ends.partitions.iter().map(gone).sum()
    }

    /// Returns the number of offsets ever committed; it only grows.
    pub fn done(&self) -> i64 {
        self.committed.values().flat_map(BTreeMap::values).sum()
    }
}

/// A group to observe: the service and the topics that it reads.
pub type Reads = (&'static str, &'static [Topic]);

/// The clients for observing. Clones share them.
#[derive(Clone)]
pub struct Observer {
    kafka: KafkaConfig,
    clients: Arc<Mutex<Clients>>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("brokers", &self.kafka.brokers).finish_non_exhaustive()
    }
}

/// One client for the topics and one per group, because librdkafka requests only the offsets of a
/// client's own group.
#[derive(Default)]
struct Clients {
    topics: Option<Client>,
    groups: BTreeMap<String, Client>,
}

impl Observer {
    /// Makes an observer; it sends no request yet.
    pub fn new(kafka: &KafkaConfig) -> Self {
        Self { kafka: kafka.clone(), clients: Arc::default() }
    }

    /// Returns the addresses of the observed brokers.
    pub fn brokers(&self) -> &str {
        &self.kafka.brokers
    }

    /// Returns the current state of the topics and the groups.
    ///
    /// # Errors
    ///
    /// [`StreamError::Unreachable`] if no broker answers within a few seconds; looking
    /// again may succeed.
    pub async fn look(&self, services: &[Reads]) -> Result<Observed, StreamError> {
        let (this, services) = (self.clone(), services.to_vec());
        topic_admin::blocking(move |_| this.see(&services)).await
    }

    fn see(&self, services: &[Reads]) -> Result<Observed, StreamError> {
        let mut clients = self.clients();
        let client = match clients.topics.take() {
            Some(client) => client,
            None => topic_admin::probe(&self.kafka)?,
        };
        let topics = self.topics(&client);
        clients.topics = Some(client);
        let topics = topics?;
        let groups = services.iter().map(|reads| self.group(&mut clients, *reads, &topics));
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(Observed { topics, groups })
    }

    fn topics(&self, client: &Client) -> Result<Vec<TopicEnds>, StreamError> {
        let metadata = client.fetch_metadata(None, PATIENCE).map_err(|e| self.explain(client, e))?;
        Topic::ALL.into_iter().map(|topic| self.ends(client, &metadata, topic)).collect()
    }

    fn ends(&self, client: &Client, metadata: &Metadata, topic: Topic) -> Result<TopicEnds, StreamError> {
        let name = self.kafka.prefix.name(topic);
        let found = metadata.topics().iter().filter(|found| found.name() == name);
        let mut partitions = BTreeMap::new();
        for partition in found.flat_map(|found| found.partitions()) {
            let marks = client.fetch_watermarks(&name, partition.id(), PATIENCE);
            partitions.insert(partition.id(), marks.map_err(|e| self.explain(client, e))?);
        }
        Ok(TopicEnds { topic, name, partitions })
    }

    fn group(
        &self,
        clients: &mut Clients,
        (service, reads): Reads,
        topics: &[TopicEnds],
    ) -> Result<GroupState, StreamError> {
        let group = self.kafka.group(service);
        let client = match clients.groups.entry(group.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.client_of(&group)?),
        };
        let committed = self.committed(client, topics.iter().filter(|ends| reads.contains(&ends.topic)))?;
        // The broker may withhold the members from us; the committed offsets are
        // known all the same.
        let listed = client.fetch_group_list(Some(&group), PATIENCE);
        let found = listed.iter().flat_map(|listed| listed.groups()).find(|found| found.name() == group);
        let members = found.iter().flat_map(|found| found.members()).map(|member| GroupMember {
            client_id: member.client_id().to_owned(),
            host: member.client_host().trim_start_matches('/').to_owned(),
        });
        let (members, state) = (members.collect(), found.map(|found| found.state().to_owned()));
        Ok(GroupState { service: service.to_owned(), group, state, members, committed })
    }

    fn client_of(&self, group: &str) -> Result<Client, StreamError> {
        let mut config = kafka::client(&self.kafka);
        // A transaction in progress must not delay the answer.
        config.set("group.id", group).set("isolation.level", "read_uncommitted");
        config.create_with_context(LoggingContext::default()).map_err(StreamError::client)
    }

    fn committed<'a>(
        &self,
        client: &Client,
        topics: impl Iterator<Item = &'a TopicEnds>,
    ) -> Result<BTreeMap<Topic, BTreeMap<i32, i64>>, StreamError> {
        let (mut asked, mut committed) = (TopicPartitionList::new(), BTreeMap::new());
        for ends in topics {
            for partition in ends.partitions.keys() {
                asked.add_partition(&ends.name, *partition);
            }
            committed.insert(ends.topic, BTreeMap::new());
        }
        if asked.count() == 0 {
            return Ok(committed);
        }
        let answered = client.committed_offsets(asked, PATIENCE).map_err(|e| self.explain(client, e))?;
        for one in answered.elements() {
            let (topic, next) = (self.kafka.prefix.parse(one.topic()), one.offset().to_raw());
            // A negative offset means that nothing is committed.
            if let (Some(topic), Some(next @ 0..)) = (topic, next) {
                committed.entry(topic).or_default().insert(one.partition(), next);
            }
        }
        Ok(committed)
    }

    fn explain(&self, client: &Client, error: rdkafka::error::KafkaError) -> StreamError {
        connection::explain(&self.kafka, client, error)
    }

    /// Locks the clients; a panic in another thread does not spoil them.
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(partitions: &[(i32, (i64, i64))]) -> TopicEnds {
        let name = Topic::Images.base_name().to_owned();
        TopicEnds { topic: Topic::Images, name, partitions: partitions.iter().copied().collect() }
    }

    fn group(committed: &[(i32, i64)]) -> GroupState {
        GroupState {
            service: "tested".into(),
            group: "unprompt-tested".into(),
            state: None,
            members: Vec::new(),
            committed: [(Topic::Images, committed.iter().copied().collect())].into(),
        }
    }

    #[test]
    fn lag_without_a_commit_counts_from_the_first_retained_offset() {
        let ends = ends(&[(0, (10, 30)), (1, (0, 5))]);
        assert_eq!(group(&[]).lag(&ends), 25);
        assert_eq!(group(&[(0, 30)]).lag(&ends), 5);
        assert_eq!(group(&[(0, 30), (1, 5)]).lag(&ends), 0);
    }

    #[test]
    fn deleted_offsets_count_as_expired_and_not_as_lag() {
        assert_eq!(group(&[(0, 3)]).lag(&ends(&[(0, (10, 30))])), 20);
        assert_eq!(group(&[(0, 3)]).expired(&ends(&[(0, (10, 30)), (1, (5, 9))])), 7);
        assert_eq!(group(&[(0, 30)]).expired(&ends(&[(0, (10, 30))])), 0);
    }

    #[test]
    fn a_commit_past_the_end_of_a_recreated_topic_has_no_lag() {
        assert_eq!(group(&[(0, 100)]).lag(&ends(&[(0, (0, 4))])), 0);
    }
}
