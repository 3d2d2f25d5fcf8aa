//! The headers of pictures and of dead letters.

use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::{Headers, ImageEvent, forwarded, names, trace_context};
use unprompt_schemas::dead_letter::{DeadLetter, ERROR_MAX_BYTES, own_headers};

use crate::Target;

/// Headers are copied a few times: as texts, into an error, for forwarding. A header of two bytes
/// takes two vectors each time.
const FACTOR: u64 = 300;
const BASE_BYTES: u64 = 64 * 1024;

/// The headers that describe a picture.
pub const IMAGE_EVENT: Target = Target {
    name: "image-event",
    run: |input| {
        let headers = headers_of(input);
        let _ = (trace_context(&headers).is_some(), forwarded(&headers));
        let Ok(event) = ImageEvent::parse(&headers) else { return };
        let _ = event.image_id("images.v1", 0, 0);
        assert_eq!(
            ImageEvent::parse(&event.to_headers()).ok(),
            Some(event),
            "it is read otherwise than written"
        );
    },
    seeds: || {
        let event = ImageEvent {
            id: Some("mine".into()),
            source: Some("us".into()),
            event_type: Some(names::TYPE_IMAGE_GENERATED.into()),
            time_ms: Some(1_700_000_000_123),
            content_type: Some("image/png".into()),
            prompt_id: Some(Uuid::from_u128(7)),
            seed: Some(-3),
            correlation_id: Some("42".into()),
            extensions: [("other".to_owned(), "1".to_owned())].into(),
        };
        let mut headers = event.to_headers();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.push(("traceparent".into(), parent.into()));
        vec![bytes_of(&headers), bytes_of(&vec![("traceparent".into(), vec![b'-'; 200])])]
    },
    memory_bytes: |length| BASE_BYTES + FACTOR * length as u64,
};

/// The headers that tell a dead letter's origin.
pub const DEAD_LETTER: Target = Target {
    name: "dead-letter",
    run: |input| {
        let headers = headers_of(input);
        let Ok(letter) = DeadLetter::parse(&headers) else { return };
        let written = letter.to_headers(&headers);
        assert_eq!(own_headers(&written), own_headers(&headers), "its own headers change");
        if letter.error.len() <= ERROR_MAX_BYTES {
            assert_eq!(DeadLetter::parse(&written).ok(), Some(letter), "it is read otherwise than written");
        }
    },
    seeds: || {
        let letter = DeadLetter {
            topic: "images.v1".into(),
            partition: 3,
            offset: 12,
            timestamp_ms: 1_700_000_000_123,
            service: "image-encoder".into(),
            code: "truncated-image".into(),
            error: "it ends early".into(),
        };
        vec![bytes_of(&letter.to_headers(&vec![("own".into(), vec![1, 255])]))]
    },
    memory_bytes: |length| BASE_BYTES + FACTOR * length as u64,
};

/// Parses consecutive headers: the name's length (one byte), the name, the value's length (two
/// bytes), the value. A truncated header ends the list; a name that is not UTF-8 is skipped.
fn headers_of(mut input: &[u8]) -> Headers {
    let mut headers = Headers::new();
    while let Some((name, rest)) =
        input.split_first().and_then(|(n, rest)| rest.split_at_checked(*n as usize))
        && let Some(([low, high], rest)) = rest.split_first_chunk::<2>()
        && let Some((value, rest)) = rest.split_at_checked(u16::from_le_bytes([*low, *high]) as usize)
    {
        headers.extend(str::from_utf8(name).ok().map(|name| (name.to_owned(), value.to_vec())));
        input = rest;
    }
    headers
}

fn bytes_of(headers: &Headers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend((value.len() as u16).to_le_bytes());
        bytes.extend(value);
    }
    bytes
}
