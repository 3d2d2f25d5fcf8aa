//! The catalogue of topics and the prefix before their names.

use std::collections::BTreeSet;

use proptest::prelude::*;
use unprompt_schemas::topics::{NAME_MAX_CHARS, PICTURE_MAX_BYTES, Prefix, RECORD_MAX_BYTES, Topic};

#[test]
fn the_topic_catalogue_matches_the_design() {
    let names: Vec<&str> = Topic::ALL.iter().map(|topic| topic.base_name()).collect();
    let expected = [
        "prompts.v1",
        "images.v1",
        "image-embeddings.v1",
        "prompt-embeddings.v1",
        "heads.v1",
        "predictions.v1",
        "dead-letters.v1",
    ];
    assert_eq!(names, expected);
    let compacted: Vec<Topic> = Topic::ALL.into_iter().filter(|topic| topic.spec().compacted).collect();
    assert_eq!(compacted, [Topic::Heads]);
    assert_eq!(Topic::Heads.spec().partitions, 1, "one order for all heads");
}

#[test]
fn limits_leave_room_for_the_largest_picture_and_its_dead_letter() {
    let picture = PICTURE_MAX_BYTES as i32;
    assert_eq!(picture, 20_971_520);
    let limit = |topic: Topic| topic.spec().max_message_bytes;
    assert!(limit(Topic::Images) >= picture + 512 * 1024, "a picture's headers");
    assert!(limit(Topic::DeadLetters) >= limit(Topic::Images) + 512 * 1024, "a dead letter's headers");
    assert_eq!(Topic::ALL.into_iter().map(limit).max(), Some(RECORD_MAX_BYTES));
}

#[test]
fn a_topic_name_parses_back_only_with_its_own_prefix() {
    let prefix = Prefix::new("team-a.").unwrap();
    let names: BTreeSet<String> = Topic::ALL.iter().map(|topic| prefix.name(*topic)).collect();
    assert_eq!(names.len(), Topic::ALL.len());
    for topic in Topic::ALL {
        assert_eq!(prefix.parse(&prefix.name(topic)), Some(topic));
        assert_eq!(prefix.parse(topic.base_name()), None, "another prefix");
        assert_eq!(Prefix::default().parse(topic.base_name()), Some(topic));
    }
    assert_eq!(prefix.parse("team-a.images.v2"), None);
    assert_eq!(Prefix::default().parse("team-a.images.v1"), None);
}

#[test]
fn prefixes_that_kafka_refuses_are_refused() {
    for prefix in ["team a.", "team/a", "équipe.", "a\n", "a:", &"x".repeat(Prefix::MAX_CHARS + 1)] {
        let error = Prefix::new(prefix).unwrap_err();
        assert_eq!(error.code(), "bad-prefix");
        assert!(error.is_fatal(), "{error}");
    }
}

#[test]
fn a_configured_prefix_is_checked() {
    let good: Prefix = serde_json::from_str("\"team.\"").unwrap();
    assert_eq!(good.to_string(), "team.");
    let error = serde_json::from_str::<Prefix>("\"a b\"").unwrap_err();
    assert!(error.to_string().contains("a-z A-Z 0-9 . _ -"), "{error}");
}

proptest! {
    #[test]
    fn every_topic_name_under_a_valid_prefix_fits_the_length_limit(prefix in "[a-zA-Z0-9._-]{0,229}") {
        let prefix = Prefix::new(&prefix).unwrap();
        for topic in Topic::ALL {
            prop_assert!(prefix.name(topic).len() <= NAME_MAX_CHARS);
        }
    }
}
