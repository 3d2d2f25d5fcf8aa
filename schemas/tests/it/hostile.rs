//! Hostile input: false counts and lengths, and the most that fits into a record.
//!
//! Reading takes memory in proportion to the bytes received, whatever they claim. `tests/fuzz`
//! feeds the same decoders by the million.

use proptest::prelude::*;
use unprompt_schemas::SchemaError;
use unprompt_schemas::cloudevents::{Headers, ImageEvent, forwarded, is_traceparent, trace_context};
use unprompt_schemas::codec::{Codec, decode, encode};
use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::records::*;

use crate::samples::Sample;

const MIB: u64 = 1 << 20;

/// Returns the result of `read`, and the most memory that it holds at once.
pub fn measured<T>(read: impl FnOnce() -> T) -> (T, u64) {
    let mut given = None;
    let held = allocation_counter::measure(|| given = Some(read())).bytes_max;
    (given.expect("it was read"), held)
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Encodes a number in zigzag form.
fn long(number: i64) -> Vec<u8> {
    varint(((number << 1) ^ (number >> 63)) as u64)
}

fn header<R: Sample>() -> Vec<u8> {
    encode(&R::sample()).unwrap()[..10].to_vec()
}

/// Given a record in which any byte is replaced by a false length or count, then no memory is taken
/// for it.
fn lies_take_no_memory<R: Sample>() {
    let sample = encode(&R::sample()).unwrap();
    for at in 10..sample.len() {
        for lie in [i64::MAX, i64::MIN, 1 << 40, 1 << 31, -(1 << 31), 1 << 20, 65_536] {
            let bytes = [&sample[..at], &long(lie), &sample[at + 1..]].concat();
            let (_, held) = measured(|| decode::<R>(&bytes).is_ok());
            assert!(held < MIB, "{} held {held} bytes for {lie} at {at}", R::NAME);
        }
    }
}

#[test]
fn false_lengths_and_counts_take_no_memory() {
    lies_take_no_memory::<Prompt>();
    lies_take_no_memory::<ImageEmbedding>();
    lies_take_no_memory::<PromptEmbedding>();
    lies_take_no_memory::<Head>();
    lies_take_no_memory::<Prediction>();
}

/// Returns a prompt's first two fields, both empty, then `rest`.
fn prompt_of(rest: &[u8]) -> Vec<u8> {
    [&header::<Prompt>(), &[0, 0][..], rest].concat()
}

#[test]
fn too_many_minimal_items_are_refused_before_they_fill_memory() {
    let (seeds, end) = (vec![0; 4 << 20], [0, 0]);
    let many = prompt_of(&[&long(seeds.len() as i64), &seeds[..], &end].concat());
    // The same items in small blocks.
    let block = [&long(60_000), &vec![0; 60_000][..]].concat();
    let blocks = prompt_of(&[&block, &block[..], &end].concat());
    for bytes in [many, blocks] {
        let (read, held) = measured(|| decode::<Prompt>(&bytes));
        let error = read.unwrap_err();
        assert!(matches!(&error, SchemaError::Malformed { field, .. } if field == "seeds"), "{error:?}");
        assert!(error.to_string().contains("65536 items"), "{error}");
        assert!(held < 2 * MIB, "it held {held} bytes");
    }
}

#[test]
fn the_largest_records_take_memory_in_proportion() {
    // Vectors without a name or values take two bytes each in the datum and 48 in memory; the array
    // grows by doubling.
    let vectors = [&long(65_536), &vec![0; 2 * 65_536][..], &[0]].concat();
    let before = [&long(36), uuid_text(), &[0]].concat();
    let after = [&[0, 0][..], &[0, 0, 0]].concat();
    let bytes = [header::<ImageEmbedding>(), before, vectors, after].concat();
    let (read, held) = measured(|| decode::<ImageEmbedding>(&bytes).unwrap().vectors.len());
    assert_eq!(read, 65_536);
    assert!(held < 12 * MIB, "it held {held} bytes");

    let long_text = Prompt { text: "x".repeat(3 << 20), ..Prompt::default() };
    let bytes = encode(&long_text).unwrap();
    let (read, held) = measured(|| decode::<Prompt>(&bytes).unwrap().text.len());
    assert_eq!(read, 3 << 20);
    assert!(held < 2 * bytes.len() as u64, "it held {held} bytes");
}

fn uuid_text() -> &'static [u8] {
    b"6ba7b810-9dad-11d1-80b4-00c04fd430c8"
}

#[test]
fn a_record_that_could_not_be_read_back_is_not_written() {
    let error = encode(&Prompt { seeds: vec![0; 65_537], ..Prompt::default() }).unwrap_err();
    assert!(matches!(&error, SchemaError::Malformed { field, .. } if field == "seeds"), "{error:?}");
    let most = Prompt { seeds: vec![7; 65_536], ..Prompt::default() };
    assert_eq!(decode::<Prompt>(&encode(&most).unwrap()).unwrap(), most);
}

#[test]
fn a_trace_context_of_hyphens_takes_no_memory() {
    let headers: Headers = vec![("traceparent".into(), vec![b'-'; 8 << 20])];
    let (found, held) = measured(|| trace_context(&headers).is_some());
    assert!(!found && held < MIB, "it held {held} bytes");
    assert!(is_traceparent("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-is-to-come"));
    assert!(!is_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-"));
}

fn headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![
        "ce_[a-z]{0,8}",
        "unprompt-dead-letter-[a-z]{4,9}",
        Just("ce_time".to_owned()),
        Just("ce_promptid".to_owned()),
        Just("ce_specversion".to_owned()),
        Just("Content-Type".to_owned()),
        Just("traceparent".to_owned()),
        any::<String>(),
    ];
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        any::<String>().prop_map(String::into_bytes),
        Just(b"1.0".to_vec()),
        "[0-9a-fT:Z+.-]{0,60}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec((name, value), 0..12)
}

/// Reads the bytes with the decoder of every record, and as a bare prompt.
fn read_as_everything(bytes: &[u8]) -> usize {
    let codec = Codec::single_object();
    let read = [
        Prompt::from_record(bytes, &codec).is_ok(),
        codec.decode::<ImageEmbedding>(bytes).is_ok(),
        codec.decode::<PromptEmbedding>(bytes).is_ok(),
        codec.decode::<Head>(bytes).is_ok(),
        codec.decode::<Prediction>(bytes).is_ok(),
    ];
    read.into_iter().filter(|read| *read).count()
}

fn framed() -> impl Strategy<Value = Vec<u8>> {
    let starts = vec![
        header::<Prompt>(),
        header::<ImageEmbedding>(),
        header::<PromptEmbedding>(),
        header::<Head>(),
        header::<Prediction>(),
        vec![0, 0, 0, 0, 1],
        Vec::new(),
    ];
    (proptest::sample::select(starts), proptest::collection::vec(any::<u8>(), 0..400))
        .prop_map(|(start, datum)| [start, datum].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_are_a_record_or_an_error(bytes in framed()) {
        let (read, held) = measured(|| read_as_everything(&bytes));
        prop_assert!(read <= 1, "it is {read} kinds of record at once");
        prop_assert!(held < MIB, "it held {held} bytes");
    }

    #[test]
    fn arbitrary_headers_describe_a_picture_or_are_an_error(headers in headers()) {
        let (event, held) = measured(|| {
            let _ = (forwarded(&headers), DeadLetter::parse(&headers).is_ok());
            ImageEvent::parse(&headers)
        });
        prop_assert!(held < MIB, "it held {held} bytes");
        if let Ok(event) = event {
            prop_assert_eq!(ImageEvent::parse(&event.to_headers()).ok(), Some(event));
        }
    }
}
