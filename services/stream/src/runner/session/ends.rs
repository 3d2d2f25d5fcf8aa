//! The ends of a session, and what leads to each.

use std::time::Duration;

use rdkafka::error::KafkaError;
use unprompt_schemas::topics::Topic;

use super::Session;
use crate::StreamError;
use crate::producer::{SendError, is_permanent};
use crate::topic_ids::TopicChange;

/// The end of a session.
#[derive(Debug)]
pub(in crate::runner) enum SessionEnd {
    Stopped,
    /// Joining again, from the committed offsets, may fix it.
    Restart(String),
    /// Topics were deleted. Those that are gone must be created before the next session, which
    /// reads the new ones from their first record.
    TopicsChanged(Vec<TopicChange>),
    Failed(StreamError),
}

impl Session<'_> {
    /// Ends the session without committing offsets of topics that were deleted: they mean nothing
    /// in the topics that have their names now.
    pub(super) fn topics_changed(&mut self, changes: Vec<TopicChange>) -> SessionEnd {
        let mut deleted = self.offsets.topic_partitions();
        deleted.retain(|at| changes.iter().any(|change| change.topic == at.topic));
        self.clear_lag(&deleted);
        self.offsets.revoke(&deleted);
        SessionEnd::TopicsChanged(changes)
    }

    pub(super) fn no_dead_letter_fits(&self) -> SessionEnd {
        let reason = "not even a dead letter without its value fits into the dead letters' topic; raise its max.message.bytes";
        let stage = self.stage.service.name.to_owned();
        SessionEnd::Failed(StreamError::StageFatal { stage, reason: reason.into() })
    }
}

/// Returns what it means that the start of assigned partitions is not known.
pub(super) fn not_settled(error: &KafkaError) -> SessionEnd {
    SessionEnd::Restart(format!("it is not known where the assigned partitions start: {error}"))
}

/// Returns what a failed delivery means for the session; `None` if only the record is to blame.
pub(super) fn undeliverable(topic: Topic, error: &SendError) -> Option<SessionEnd> {
    let SendError::Kafka(source) = error else { return None };
    let failure = StreamError::Delivery { topic: topic.base_name().to_owned(), source: source.clone() };
    Some(match is_permanent(source) {
        true => SessionEnd::Failed(failure),
        false => SessionEnd::Restart(failure.to_string()),
    })
}

/// Returns the end after the system's clock was set back.
pub(super) fn clock_set_back(back: Duration) -> SessionEnd {
    SessionEnd::Restart(format!(
        "the system's clock was set back by {:.0} s, and Kafka's client waits by that clock",
        back.as_secs_f64()
    ))
}
