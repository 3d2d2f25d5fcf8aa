//! The headers that describe a picture, and those that a prediction copies.

use std::collections::BTreeMap;

use proptest::prelude::*;
use unprompt_schemas::cloudevents::{Headers, ImageEvent, forwarded, is_traceparent, names, trace_context};
use unprompt_schemas::{SchemaError, Uuid};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn full() -> ImageEvent {
    ImageEvent {
        id: Some("order-66/picture-1".to_owned()),
        source: Some("/studio/1".to_owned()),
        event_type: Some(names::TYPE_IMAGE_GENERATED.to_owned()),
        time_ms: Some(1_795_474_200_123),
        content_type: Some("image/png".to_owned()),
        prompt_id: Some(Uuid::from_u128(7)),
        seed: Some(-3),
        correlation_id: Some("c-1".to_owned()),
        extensions: BTreeMap::from([("tenant".to_owned(), "blue".to_owned())]),
    }
}

#[test]
fn an_event_round_trips_through_headers() {
    assert_eq!(ImageEvent::parse(&full().to_headers()).unwrap(), full());
    let plain = full().to_headers();
    let expected = headers(&[
        ("ce_specversion", "1.0"),
        ("ce_id", "order-66/picture-1"),
        ("ce_source", "/studio/1"),
        ("ce_type", "unprompt.image.generated.v1"),
        ("ce_time", "2026-11-23T22:50:00.123Z"),
        ("ce_promptid", "00000000-0000-0000-0000-000000000007"),
        ("ce_seed", "-3"),
        ("ce_tenant", "blue"),
        ("content-type", "image/png"),
        ("correlation-id", "c-1"),
    ]);
    assert_eq!(plain, expected);
}

#[test]
fn events_of_earlier_generators_are_read_like_current_ones() {
    let of_type = |event_type: &str| {
        let described = headers(&[("ce_id", "picture-1"), ("ce_type", event_type), ("ce_seed", "4")]);
        ImageEvent { event_type: None, ..ImageEvent::parse(&described).unwrap() }
    };
    assert_eq!(of_type("unprompt.image.generated"), of_type(names::TYPE_IMAGE_GENERATED));
}

#[test]
fn a_bare_picture_needs_no_header() {
    assert_eq!(ImageEvent::parse(&Headers::new()).unwrap(), ImageEvent::default());
    assert_eq!(ImageEvent::default().to_headers(), Headers::new());
    let event = ImageEvent::parse(&headers(&[("Content-Type", "image/webp"), ("x-own", "1")])).unwrap();
    assert_eq!(event, ImageEvent { content_type: Some("image/webp".to_owned()), ..ImageEvent::default() });
}

#[test]
fn times_in_any_time_zone_are_read() {
    let event = ImageEvent::parse(&headers(&[
        ("ce_specversion", "1.0"),
        ("ce_time", "2026-11-23T23:50:00.123+01:00"),
    ]));
    assert_eq!(event.unwrap().time_ms, Some(1_795_474_200_123));
}

#[test]
fn malformed_attributes_are_named_in_the_error() {
    let bad = [
        ("ce_promptid", "seven"),
        ("ce_seed", "1.5"),
        ("ce_seed", "9223372036854775808"),
        ("ce_time", "yesterday"),
        ("ce_id", " "),
        ("ce_source", ""),
        ("ce_type", ""),
    ];
    for (name, text) in bad {
        let error = ImageEvent::parse(&headers(&[("ce_specversion", "1.0"), (name, text)])).unwrap_err();
        assert_eq!(error.code(), "bad-header");
        assert!(error.to_string().contains(name), "{error}");
    }
    let mut not_text = headers(&[("ce_specversion", "1.0")]);
    not_text.push(("ce_tenant".to_owned(), vec![0xFF]));
    assert_eq!(ImageEvent::parse(&not_text).unwrap_err().code(), "bad-header");
}

#[test]
fn other_spec_versions_are_refused_and_a_missing_one_means_1_0() {
    let bare = ImageEvent::parse(&headers(&[("ce_id", "1")])).unwrap();
    assert_eq!(bare.id.as_deref(), Some("1"), "an id alone is enough");
    let error = ImageEvent::parse(&headers(&[("ce_specversion", "0.3"), ("ce_id", "1")])).unwrap_err();
    assert_eq!(error.code(), "bad-header");
}

#[test]
fn a_repeated_attribute_is_named_in_the_error() {
    let error = ImageEvent::parse(&headers(&[("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_id", "2")]))
        .unwrap_err();
    assert!(
        matches!(error, SchemaError::RepeatedHeader { ref name, count: 2 } if name == "ce_id"),
        "{error:?}"
    );
}

#[test]
fn a_picture_is_identified_by_its_ce_id_or_its_offset() {
    let at = |event: &ImageEvent, offset| event.image_id("images.v1", 0, offset);
    assert_eq!(at(&full(), 1), at(&full(), 2), "a picture published twice keeps its id");
    assert_ne!(at(&ImageEvent::default(), 1), at(&ImageEvent::default(), 2));
    let uuid = Uuid::from_u128(0x1234_5678);
    let event = ImageEvent { id: Some(uuid.to_string().to_uppercase()), ..ImageEvent::default() };
    assert_eq!(at(&event, 1), uuid);
}

#[test]
fn a_prediction_copies_headers_that_do_not_describe_the_picture() {
    let mut all = full().to_headers();
    let own = headers(&[
        ("x-order", "66"),
        ("x-order", "67"),
        ("traceparent", TRACEPARENT),
        ("tracestate", "a=1"),
        ("unprompt-dead-letter-code", "old"),
    ]);
    all.extend(own);
    all.push(("x-bytes".to_owned(), vec![0xFF]));
    let mut expected = headers(&[
        ("correlation-id", "c-1"),
        ("x-order", "66"),
        ("x-order", "67"),
        ("traceparent", TRACEPARENT),
        ("tracestate", "a=1"),
    ]);
    expected.push(("x-bytes".to_owned(), vec![0xFF]));
    assert_eq!(forwarded(&all), expected);
    assert_eq!(forwarded(&expected), expected, "copied once more by the next service");
}

#[test]
fn a_malformed_trace_context_is_not_forwarded() {
    let broken = headers(&[("traceparent", "00-xyz"), ("tracestate", "a=1"), ("x", "1")]);
    assert_eq!(forwarded(&broken), headers(&[("x", "1")]));
    let twice = headers(&[("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]);
    assert_eq!(forwarded(&twice), Headers::new());
    assert_eq!(trace_context(&headers(&[("traceparent", TRACEPARENT)])), Some(TRACEPARENT));
}

#[test]
fn traceparents_are_validated_by_the_w3c_standard() {
    assert!(is_traceparent(TRACEPARENT));
    assert!(is_traceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-holds"));
    let bad = [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ];
    for text in bad {
        assert!(!is_traceparent(text), "{text}");
    }
}

proptest! {
    #[test]
    fn any_event_round_trips_through_headers(
        id in proptest::option::of("[!-~]{1,20}"),
        seed in proptest::option::of(any::<i64>()),
        prompt in proptest::option::of(any::<u128>()),
        time_ms in proptest::option::of(-62_135_596_800_000_i64..253_402_300_799_999),
        extensions in proptest::collection::btree_map("x[a-z0-9]{1,10}", any::<String>(), 0..4),
    ) {
        let event = ImageEvent { id, seed, prompt_id: prompt.map(Uuid::from_u128), time_ms, extensions, ..ImageEvent::default() };
        prop_assert_eq!(ImageEvent::parse(&event.to_headers()).unwrap(), event);
    }
}
