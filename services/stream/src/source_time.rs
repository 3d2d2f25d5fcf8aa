//! The time of a record's source, which travels with everything that follows from it.
//!
//! A record carries the time at which it was written, so that its topic's retention counts from
//! there. This header shows how long a picture took from its publication to its prediction.

use unprompt_schemas::cloudevents::names::SOURCE_TIME;
use unprompt_schemas::dead_letter;
use unprompt_schemas::topics::Topic;

use crate::{InputRecord, OutputRecord};

/// Returns the time of the first record of the chain, in milliseconds since the epoch: from the
/// header, or of the record itself. `None` if neither is after 1970.
///
/// Pictures and prompts are first records, and a header that somebody copied to one is ignored. A
/// dead letter that was published again has the earlier time of the record that was rejected.
pub(crate) fn of(record: &InputRecord) -> Option<i64> {
    let own = record.timestamp_ms;
    let (name, latest) = match record.topic {
        Topic::Images | Topic::Prompts => (dead_letter::names::TIMESTAMP, own),
        _ => (SOURCE_TIME, i64::MAX),
    };
    let header = record.headers.iter().rev().find(|(header, _)| header == name);
    let travelled: Option<i64> = header.and_then(|(_, value)| str::from_utf8(value).ok()?.parse().ok());
    travelled.filter(|time| *time <= latest).or(Some(own)).filter(|time| *time > 0)
}

/// Writes the time into an output, in place of any that a stage has copied.
pub(crate) fn stamp(output: &mut OutputRecord, time: Option<i64>) {
    output.headers.retain(|(name, _)| name != SOURCE_TIME);
    output.headers.extend(time.map(|time| (SOURCE_TIME.to_owned(), time.to_string().into_bytes())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(timestamp_ms: i64, header: Option<&str>) -> InputRecord {
        let headers = header.map(|value| (SOURCE_TIME.to_owned(), value.as_bytes().to_vec()));
        InputRecord {
            timestamp_ms,
            headers: headers.into_iter().collect(),
            ..InputRecord::new(Topic::ImageEmbeddings)
        }
    }

    #[test]
    fn the_source_is_the_first_record_of_the_chain() {
        assert_eq!(of(&record(9, None)), Some(9));
        assert_eq!(of(&record(9, Some("7"))), Some(7));
        assert_eq!(of(&record(9, Some("yesterday"))), Some(9));
        assert_eq!(of(&record(i64::MIN, None)), None);
        assert_eq!(of(&record(9, Some("-5"))), None);
    }

    #[test]
    fn pictures_and_prompts_start_a_chain_unless_they_were_rejected_before() {
        for topic in [Topic::Images, Topic::Prompts] {
            let copied = InputRecord { topic, ..record(9, Some("7")) };
            assert_eq!(of(&copied), Some(9));
            for (rejected, time) in [("5", 5), ("90", 9)] {
                let header = (dead_letter::names::TIMESTAMP.to_owned(), rejected.as_bytes().to_vec());
                assert_eq!(of(&InputRecord { headers: vec![header], ..copied.clone() }), Some(time));
            }
        }
    }

    #[test]
    fn the_time_is_written_once() {
        let headers = record(9, Some("7")).headers;
        let mut output = OutputRecord { topic: Topic::Images, key: None, value: None, headers };
        stamp(&mut output, Some(5));
        assert_eq!(output.headers, [(SOURCE_TIME.to_owned(), b"5".to_vec())]);
        stamp(&mut output, None);
        assert!(output.headers.is_empty());
    }
}
