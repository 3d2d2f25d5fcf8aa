//! A group whose offsets the broker has forgotten, as Kafka does with those of a group that has had
//! no member for `offsets.retention.minutes`.
//!
//! Such a group looks like a new one, which starts at the earliest record: everything would be
//! processed and written again. What tells them apart is that its outputs exist. Every output
//! bears the name of the group that wrote it.

use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use unprompt_schemas::cloudevents::names::WRITER;
use unprompt_schemas::topics::Topic;

use crate::config::{KafkaConfig, LostOffsets, Profile};
use crate::observer::{GroupState, Observed, Observer, TopicEnds};
use crate::reader::{Reader, Start};
use crate::{InputRecord, OutputRecord, Service, StreamError, kafka, topic_admin};

/// The last records of each partition that are looked at. Others may write to the topic, too.
const LOOKED_AT: i64 = 200;
/// Looking takes no longer than this: without an answer, the group counts as new.
const PATIENCE: Duration = Duration::from_secs(15);

const UNSEEN: &str = "the topic cannot be searched for earlier outputs of this group, so the group counts as a new one and starts at \
                      the earliest records: grant READ on the topic, or commit offsets for the group first if it is not new";

/// Writes the group's name into an output, in place of any that a stage has copied.
pub(crate) fn sign(output: &mut OutputRecord, group: &str) {
    output.headers.retain(|(name, _)| name != WRITER);
    output.headers.push((WRITER.to_owned(), group.as_bytes().to_vec()));
}

/// Checks that the group has its offsets, or does what `lost` says.
///
/// # Errors
///
/// [`StreamError::OffsetsLost`], and those of [`Observer::look`].
pub(crate) async fn check(
    kafka: &KafkaConfig,
    service: &Service,
    lost: LostOffsets,
    exactly_once: bool,
) -> Result<(), StreamError> {
    // The embedded broker forgets no offset.
    if kafka.profile == Profile::Embedded {
        return Ok(());
    }
    let observed = Observer::new(kafka).look(&[(service.name, service.inputs)]).await?;
    let Some(group) = observed.groups.first().filter(|group| !has_committed(group)) else { return Ok(()) };
    let inputs: Vec<_> = inputs_of(&observed, service.inputs).cloned().collect();
    let (own, name) = (kafka.clone(), group.group.clone());
    let Some(topic) = written_before(kafka, service, &observed, &group.group).await else {
        // Without transactions, a process that is killed between its first outputs and its first
        // commit leaves outputs without offsets, and must be able to start again.
        if !exactly_once {
            let begun = topic_admin::blocking(move |_| commit(&own, &name, inputs, |(first, _)| first)).await;
            // Another instance has joined, which has begun the group.
            begun.unwrap_or_else(
                |error| tracing::debug!(%error, "the group's first offsets were not committed"),
            );
        }
        return Ok(());
    };
    match lost {
        LostOffsets::Stop => Err(StreamError::OffsetsLost { group: group.group.clone(), topic }),
        LostOffsets::Earliest => {
            tracing::warn!(group = group.group, "its offsets are gone: it starts at the earliest records");
            Ok(())
        }
        LostOffsets::Latest => {
            tracing::warn!(group = group.group, "its offsets are gone: it starts after the latest records");
            topic_admin::blocking(move |_| commit(&own, &name, inputs, |(_, end)| end)).await
        }
    }
}

fn has_committed(group: &GroupState) -> bool {
    group.committed.values().any(|partitions| !partitions.is_empty())
}

fn inputs_of<'a>(observed: &'a Observed, inputs: &'a [Topic]) -> impl Iterator<Item = &'a TopicEnds> {
    observed.topics.iter().filter(|ends| inputs.contains(&ends.topic))
}

/// Returns an output topic whose last records include one of the group.
async fn written_before(
    kafka: &KafkaConfig,
    service: &Service,
    observed: &Observed,
    group: &str,
) -> Option<String> {
    if inputs_of(observed, service.inputs).all(|ends| ends.offsets() == 0) {
        return None;
    }
    for ends in observed.topics.iter().filter(|ends| service.outputs.contains(&ends.topic)) {
        let looked = tokio::time::timeout(PATIENCE, has_output(kafka, ends, group)).await;
        match looked {
            Ok(Ok(true)) => return Some(ends.name.clone()),
            Ok(Ok(false)) => {}
            // It may be allowed to write there, and not to read.
            Ok(Err(error)) => {
                tracing::warn!(topic = ends.name, %error, "{UNSEEN}")
            }
            Err(_) => tracing::warn!(topic = ends.name, patience = ?PATIENCE, "{UNSEEN}"),
        }
    }
    None
}

async fn has_output(kafka: &KafkaConfig, ends: &TopicEnds, group: &str) -> Result<bool, StreamError> {
    if ends.offsets() == 0 {
        return Ok(false);
    }
    let mut reader = Reader::start(kafka, &[ends.topic], Start::Last(LOOKED_AT)).await?;
    while !reader.is_caught_up() {
        if reader.next().await?.is_some_and(|record| is_of(&record, group)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_of(record: &InputRecord, group: &str) -> bool {
    record.headers.iter().any(|(name, value)| name == WRITER && value == group.as_bytes())
}

/// Commits an offset of each partition, one of its first and its next, for a group without members.
fn commit(
    kafka: &KafkaConfig,
    group: &str,
    topics: Vec<TopicEnds>,
    offset: impl Fn((i64, i64)) -> i64,
) -> Result<(), StreamError> {
    let failed = |source| StreamError::Consumer { group: group.to_owned(), source };
    let consumer: rdkafka::consumer::BaseConsumer =
        kafka::consumer(kafka, group).create().map_err(StreamError::client)?;
    let mut list = TopicPartitionList::new();
    for ends in topics {
        for (partition, of_partition) in ends.partitions {
            let at = Offset::Offset(offset(of_partition));
            list.add_partition_offset(&ends.name, partition, at).map_err(failed)?;
        }
    }
    consumer.commit(&list, CommitMode::Sync).map_err(failed)
}
