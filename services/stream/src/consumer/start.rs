//! Where the partitions that a group assigns start: at the committed offset if it is of the topic
//! that has the name now, and otherwise at the first record.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;

use super::floors::Floors;
use crate::admin_requests::{self, Committed};
use crate::offsets::TopicPartition;
use crate::topic_ids::{TopicChange, TopicIds};

/// The broker's time for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An error is tolerated for this time. The consumer's thread waits, and its group with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after an error.
const PAUSE: Duration = Duration::from_millis(100);

const OUTDATED: &str =
    "the committed offset is of a topic that was deleted; the new one is read from its first record";

/// Has the partitions that were just assigned start at their first record where the group's offset
/// is of an earlier topic. Returns the topics that have changed since they became known: then
/// nothing is settled.
pub(super) fn settle<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    ids: &TopicIds,
    floors: &Floors,
    group: &str,
    assigned: &TopicPartitionList,
) -> KafkaResult<Vec<TopicChange>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_to_settle(consumer, ids, floors, group, assigned) {
            Err(error) if Instant::now() < deadline => {
                tracing::debug!(%error, "where the assigned partitions start is asked again");
                sleep(PAUSE);
            }
            settled => return settled,
        }
    }
}

fn try_to_settle<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    ids: &TopicIds,
    floors: &Floors,
    group: &str,
    assigned: &TopicPartitionList,
) -> KafkaResult<Vec<TopicChange>> {
    if assigned.count() == 0 {
        return Ok(Vec::new());
    }
    let changes = ids.look(consumer.client())?;
    if changes.is_empty() {
        let before = committed(consumer, group, assigned, false)?;
        let outdated = match before.iter().any(|committed| ids.is_outdated(committed)) {
            true => outdated(consumer, ids, group, assigned)?,
            false => Vec::new(),
        };
        start_at_first(assigned, &outdated)?;
        set_floors(floors, ids, &before, &outdated);
        match commit_starts(consumer, ids, &outdated) {
            Ok(()) => ids.settled(assigned.elements().iter().filter_map(|at| {
                Some(TopicPartition { topic: ids.topic(at.topic())?, partition: at.partition() })
            })),
            // Where the broker gives ids, the next owner recognises the old offset, too.
            Err(error) => tracing::warn!(%error, "the start of a new topic was not committed"),
        }
    }
    Ok(changes)
}

/// Returns the partitions whose committed offsets are of an earlier topic. It waits for the
/// transactions that are about to commit an offset.
fn outdated<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    ids: &TopicIds,
    group: &str,
    assigned: &TopicPartitionList,
) -> KafkaResult<Vec<Committed>> {
    let mut committed = committed(consumer, group, assigned, true)?;
    committed.retain(|committed| ids.is_outdated(committed));
    Ok(committed)
}

/// Bounds the partitions by the offsets committed before a transaction in progress, except those
/// that start anew.
fn set_floors(floors: &Floors, ids: &TopicIds, before: &[Committed], outdated: &[Committed]) {
    let starts_anew =
        |at: &Committed| outdated.iter().any(|old| (&old.topic, old.partition) == (&at.topic, at.partition));
    for committed in before {
        let Some(topic) = ids.topic(&committed.topic) else { continue };
        let floor = committed.offset.filter(|_| !starts_anew(committed));
        floors.set(TopicPartition { topic, partition: committed.partition }, floor);
    }
}

fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    assigned: &TopicPartitionList,
    stable: bool,
) -> KafkaResult<Vec<Committed>> {
    let elements = assigned.elements();
    let partitions = elements.iter().map(|element| (element.topic(), element.partition()));
    let asked = admin_requests::committed_offsets(consumer.client(), group, partitions, stable, TIMEOUT)?;
    let late = || Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut));
    asked.answer(TIMEOUT).unwrap_or_else(late)
}

fn start_at_first(assigned: &TopicPartitionList, outdated: &[Committed]) -> KafkaResult<()> {
    for mut element in assigned.elements() {
        let (topic, partition) = (element.topic().to_owned(), element.partition());
        let is_it = |old: &&Committed| old.topic == topic && old.partition == partition;
        if let Some(old) = outdated.iter().find(is_it) {
            if let Some(offset) = old.offset {
                tracing::warn!(topic, partition, offset, "{OUTDATED}");
            }
            element.set_offset(Offset::Beginning)?;
        }
    }
    Ok(())
}

fn commit_starts<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    ids: &TopicIds,
    outdated: &[Committed],
) -> KafkaResult<()> {
    let start = |old: &Committed| {
        Some((TopicPartition { topic: ids.topic(&old.topic)?, partition: old.partition }, 0))
    };
    let starts: Vec<_> = outdated.iter().filter_map(start).collect();
    if starts.is_empty() {
        return Ok(());
    }
    consumer.commit(&ids.commit_list(&starts), CommitMode::Sync)
}
