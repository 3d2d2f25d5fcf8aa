//! Makes dead letters: the rejected record unchanged, with headers that say where it came from and
//! why it was rejected.

use unprompt_schemas::cloudevents::FORWARDED_MAX;
use unprompt_schemas::dead_letter::{DeadLetter, names};
use unprompt_schemas::topics::Topic;

use crate::{InputRecord, OutputRecord, Rejection};

/// Marks a dead letter without its value: with the value, it was too large for the topic.
pub const VALUE_OMITTED_HEADER: &str = names::VALUE_OMITTED;

/// Makes the dead letter of `record`, rejected by `service`. A record of more headers than a dead
/// letter may have is left out of it.
pub(crate) fn dead_letter(service: &str, record: &InputRecord, rejection: &Rejection) -> OutputRecord {
    match record.headers.len() > FORWARDED_MAX {
        true => slim_dead_letter(service, record, rejection),
        false => whole_dead_letter(service, record, rejection),
    }
}

fn whole_dead_letter(service: &str, record: &InputRecord, rejection: &Rejection) -> OutputRecord {
    let described = DeadLetter {
        topic: record.topic_name.clone(),
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        service: service.to_owned(),
        code: rejection.code.to_owned(),
        error: rejection.reason.clone(),
    };
    OutputRecord {
        topic: Topic::DeadLetters,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: described.to_headers(&record.headers),
    }
}

/// Makes a dead letter without the record's key, value and headers, for a topic that takes no
/// more. The record itself is still where the dead letter's headers say, until that topic's
/// retention deletes it.
pub(crate) fn slim_dead_letter(service: &str, record: &InputRecord, rejection: &Rejection) -> OutputRecord {
    let bare = InputRecord { key: None, value: None, headers: Vec::new(), ..record.clone() };
    let mut letter = whole_dead_letter(service, &bare, rejection);
    letter.headers.push((VALUE_OMITTED_HEADER.to_owned(), b"true".to_vec()));
    letter
}

/// Makes the rejection of an input with an output that is too large to be written.
pub(crate) fn too_large(topic: &str, size_bytes: usize, limit_bytes: usize) -> Rejection {
    let reason = format!(
        "its output of {size_bytes} bytes is larger than {topic} takes ({limit_bytes} bytes); raise max.message.bytes of \
         the topic or make the record smaller, then publish it again"
    );
    Rejection::new("output-too-large", reason)
}
