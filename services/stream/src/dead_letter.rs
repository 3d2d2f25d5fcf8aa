//! A rejected record on its way to dead-letters.v1: as it was, with headers that say where it came from and why.

use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::topics::Topic;

use crate::{InputRecord, OutputRecord, Rejection};

/// Says that the value was left out, because even the dead letter with it was too large for the topic.
pub const VALUE_OMITTED_HEADER: &str = "unprompt-dead-letter-value-omitted";

/// The dead letter of `record`, rejected by `service`.
pub(crate) fn dead_letter(service: &str, record: &InputRecord, rejection: &Rejection) -> OutputRecord {
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

/// The same without value and own headers, for a topic that takes no more. The record itself is still where the
/// headers say, until that topic's retention takes it.
pub(crate) fn slim_dead_letter(service: &str, record: &InputRecord, rejection: &Rejection) -> OutputRecord {
    let bare = InputRecord { key: None, value: None, headers: Vec::new(), ..record.clone() };
    let mut letter = dead_letter(service, &bare, rejection);
    letter.headers.push((VALUE_OMITTED_HEADER.to_owned(), b"true".to_vec()));
    letter
}

/// Why an input goes to the dead letters when one of its outputs is too large to be written.
pub(crate) fn too_large(topic: &str, size_bytes: usize, limit_bytes: usize) -> Rejection {
    let reason = format!(
        "its output of {size_bytes} bytes is larger than {topic} takes ({limit_bytes} bytes); raise max.message.bytes of \
         the topic or make the record smaller, then publish it again"
    );
    Rejection::new("output-too-large", reason)
}
