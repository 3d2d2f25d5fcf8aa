//! A dead letter tells where its record came from, and keeps the record's own headers.

use unprompt_schemas::cloudevents::Headers;
use unprompt_schemas::dead_letter::{DeadLetter, ERROR_MAX_BYTES, names, own_headers};

fn letter() -> DeadLetter {
    DeadLetter {
        topic: "team.images.v1".to_owned(),
        partition: 3,
        offset: 1 << 40,
        timestamp_ms: 1_795_474_200_123,
        service: "image-encoder".to_owned(),
        code: "truncated-image".to_owned(),
        error: "the picture ends early: publish it again".to_owned(),
    }
}

fn own() -> Headers {
    vec![("ce_id".to_owned(), b"1".to_vec()), ("x".to_owned(), vec![0xFF]), ("x".to_owned(), vec![])]
}

#[test]
fn a_dead_letter_is_read_back_and_leaves_the_records_headers_alone() {
    let headers = letter().to_headers(&own());
    assert_eq!(DeadLetter::parse(&headers).unwrap(), letter());
    assert_eq!(own_headers(&headers), own());
    assert_eq!(headers[..3], own());
}

#[test]
fn a_record_rejected_again_has_one_reason() {
    let first = letter().to_headers(&own());
    let second = DeadLetter { code: "too-many-pixels".to_owned(), offset: 9, ..letter() };
    let headers = second.to_headers(&first);
    assert_eq!(DeadLetter::parse(&headers).unwrap(), second);
    assert_eq!(headers.len(), first.len());
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let error = "é".repeat(ERROR_MAX_BYTES);
    let headers = DeadLetter { error: format!("x{error}"), ..letter() }.to_headers(&Headers::new());
    let read = DeadLetter::parse(&headers).unwrap();
    assert_eq!(read.error.len(), ERROR_MAX_BYTES - 1);
}

#[test]
fn missing_or_malformed_dead_letter_headers_are_reported() {
    assert_eq!(DeadLetter::parse(&own()).unwrap_err().code(), "missing-header");
    let mut headers = letter().to_headers(&own());
    for header in headers.iter_mut().filter(|header| header.0 == names::OFFSET) {
        header.1 = b"first".to_vec();
    }
    let error = DeadLetter::parse(&headers).unwrap_err();
    assert_eq!(error.code(), "bad-header");
    assert!(error.to_string().contains(names::OFFSET), "{error}");
}
