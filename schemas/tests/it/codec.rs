//! Both framings, and the errors for bytes that are neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::{Codec, decode, encode};
use unprompt_schemas::records::*;
use unprompt_schemas::registry::{MemoryRegistry, Registry, RegistryError};

use crate::samples::Sample;

/// A registry that counts requests, and is unreachable if `is_down`.
#[derive(Debug, Default)]
struct CountingRegistry {
    inner: MemoryRegistry,
    asked: AtomicUsize,
    is_down: bool,
}

impl CountingRegistry {
    fn ask(&self) -> Result<(), RegistryError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_down { Err(RegistryError::Unreachable { reason: "refused".to_owned() }) } else { Ok(()) }
    }
}

impl Registry for CountingRegistry {
    fn id_of(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        assert_eq!(subject, "team.predictions.v1-value");
        self.ask()?;
        self.inner.id_of(subject, schema)
    }

    fn schema_of(&self, id: u32) -> Result<String, RegistryError> {
        self.ask()?;
        self.inner.schema_of(id)
    }
}

fn confluent() -> Codec {
    Codec::confluent(Arc::new(MemoryRegistry::default()))
}

fn in_confluent_framing<R: Record>(codec: &Codec, record: &R) -> Vec<u8> {
    codec.encode("team.predictions.v1", record).unwrap()
}

#[test]
fn single_object_encoding_starts_with_marker_and_fingerprint() {
    let bytes = encode(&Prompt::sample()).unwrap();
    assert_eq!(bytes[..10], [0xC3, 0x01, 0x0f, 0xa2, 0x9b, 0x72, 0xf4, 0x8e, 0x04, 0xc2]);
    assert_eq!(Codec::single_object().encode("prompts.v1", &Prompt::sample()).unwrap(), bytes);
}

#[test]
fn a_codec_with_a_registry_writes_confluent_framing_and_reads_both() {
    let codec = confluent();
    let bytes = in_confluent_framing(&codec, &Prediction::sample());
    assert_eq!(bytes[..5], [0, 0, 0, 0, 1]);
    assert_eq!(codec.decode::<Prediction>(&bytes).unwrap(), Prediction::sample());
    let single = encode(&Prediction::sample()).unwrap();
    assert_eq!(codec.decode::<Prediction>(&single).unwrap(), Prediction::sample());
    assert_eq!(bytes[5..], single[10..], "the datum is the same in both");
}

#[test]
fn a_codec_makes_each_registry_request_once() {
    let registry = Arc::new(CountingRegistry::default());
    let codec = Codec::confluent(registry.clone());
    for _ in 0..3 {
        let bytes = in_confluent_framing(&codec, &Prediction::sample());
        codec.decode::<Prediction>(&bytes).unwrap();
    }
    assert_eq!(registry.asked.load(Ordering::SeqCst), 2, "one id, one schema");
}

#[test]
fn a_repeated_unknown_id_is_requested_once() {
    let registry = Arc::new(CountingRegistry::default());
    let codec = Codec::confluent(registry.clone());
    for id in [7, 8, 7, 7, 8] {
        let error = codec.decode::<Head>(&[0, 0, 0, 0, id, 1]).unwrap_err();
        assert_eq!(error.code(), "unknown-schema");
    }
    assert_eq!(registry.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn an_unusable_schema_is_requested_once() {
    let registry = Arc::new(CountingRegistry::default());
    let id = registry.inner.id_of("any", r#""string""#).unwrap();
    let codec = Codec::confluent(registry.clone());
    for _ in 0..3 {
        codec.decode::<Head>(&[0, 0, 0, 0, id as u8, 1]).unwrap_err();
    }
    assert_eq!(registry.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_prepared_record_type_is_encoded_without_another_request() {
    let registry = Arc::new(CountingRegistry::default());
    let codec = Codec::confluent(registry.clone());
    codec.prepare::<Prediction>("team.predictions.v1").unwrap();
    in_confluent_framing(&codec, &Prediction::sample());
    assert_eq!(registry.asked.load(Ordering::SeqCst), 1);
    Codec::single_object().prepare::<Prediction>("team.predictions.v1").unwrap();
}

#[test]
fn registry_errors_other_than_unreachable_are_not_transient() {
    let (subject, record, reason) = ("s".to_owned(), "Head".to_owned(), String::new());
    let fatal = [
        RegistryError::Refused { what: subject.clone(), reason: reason.clone() },
        RegistryError::Incompatible {
            subject: subject.clone(),
            record: record.clone(),
            reason: reason.clone(),
        },
        RegistryError::NotRegistered { subject, record },
    ];
    for error in fatal.map(SchemaError::from) {
        assert!(error.is_fatal() && !error.is_transient(), "{error}");
    }
    let of_the_record =
        [RegistryError::UnknownId { id: 1 }, RegistryError::Unusable { id: 1, reason: reason.clone() }];
    for error in of_the_record.map(SchemaError::from) {
        assert!(!error.is_fatal() && !error.is_transient(), "{error}");
    }
}

#[test]
fn an_unreachable_registry_is_a_transient_error_and_not_cached() {
    let registry = Arc::new(CountingRegistry { is_down: true, ..CountingRegistry::default() });
    let codec = Codec::confluent(registry.clone());
    for _ in 0..2 {
        let error = codec.encode("team.predictions.v1", &Prediction::sample()).unwrap_err();
        assert!(error.is_transient() && !error.is_fatal(), "{error}");
    }
    assert_eq!(registry.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn confluent_framing_without_a_registry_is_a_record_error() {
    let bytes = in_confluent_framing(&confluent(), &Head::sample());
    let error = decode::<Head>(&bytes).unwrap_err();
    assert!(matches!(error, SchemaError::RegistryNeeded { id: 1 }), "{error:?}");
    assert!(!error.is_fatal() && !error.is_transient(), "five bytes from anyone must not stop a service");
    assert_eq!(error.code(), "registry-needed");
    assert!(error.to_string().contains("give the registry's address"), "{error}");
    let passed_over = Codec::single_object().decode_readable::<Head>(&bytes);
    assert!(matches!(passed_over, Err(SchemaError::RegistryNeeded { id: 1 })), "a job gets this error");
}

#[test]
fn an_unknown_schema_id_is_a_record_error() {
    let error = confluent().decode::<Head>(&[0, 0, 0, 0, 9, 1]).unwrap_err();
    assert_eq!(error.code(), "unknown-schema");
    assert!(!error.is_fatal() && !error.is_transient());
}

/// Decoding any prefix of a record fails with a fitting error: apache-avro alone reads a truncated
/// union as null.
fn no_beginning_is_a_record<R: Sample>(codec: &Codec, bytes: &[u8], header_bytes: usize) {
    for length in 1..bytes.len() {
        let error = codec.decode::<R>(&bytes[..length]).unwrap_err();
        match error {
            SchemaError::NotAvro { .. } if length < 2 => {}
            SchemaError::Truncated { length: said, ref field, .. } => {
                assert_eq!(said, length);
                assert!(length < header_bytes || !field.is_empty());
            }
            other => panic!("{} cut at {length}: {other:?}", R::NAME),
        }
    }
}

fn is_strict<R: Sample>() {
    let single = encode(&R::sample()).unwrap();
    no_beginning_is_a_record::<R>(&Codec::single_object(), &single, 10);
    let codec = confluent();
    let framed = in_confluent_framing(&codec, &R::sample());
    no_beginning_is_a_record::<R>(&codec, &framed, 5);
    let mut longer = single;
    longer.extend([0, 0]);
    let error = decode::<R>(&longer).unwrap_err();
    assert!(matches!(error, SchemaError::TrailingBytes { count: 2, .. }), "{error:?}");
}

#[test]
fn truncated_and_trailing_bytes_are_reported() {
    is_strict::<Prompt>();
    is_strict::<ImageEmbedding>();
    is_strict::<PromptEmbedding>();
    is_strict::<Head>();
    is_strict::<Prediction>();
}

#[test]
fn a_truncation_error_names_its_field() {
    let bytes = encode(&PromptEmbedding::sample()).unwrap();
    let error = decode::<PromptEmbedding>(&bytes[..bytes.len() - 2]).unwrap_err();
    assert!(error.to_string().contains("inside clip.values"), "{error}");
}

#[test]
fn bytes_that_are_not_avro_are_reported() {
    for (bytes, start) in
        [(&b"{\"text\":1}"[..], "7B 22 74 65"), (&[0xC3, 0x02, 0x01], "C3 02 01"), (&[], "nothing")]
    {
        let error = decode::<Prompt>(bytes).unwrap_err();
        assert_eq!(error.code(), "not-avro");
        assert!(error.to_string().contains(start), "{error}");
    }
}

#[test]
fn an_unknown_fingerprint_is_named_in_the_error() {
    let mut bytes = encode(&Prompt::sample()).unwrap();
    bytes[9] ^= 0xFF;
    let error = decode::<Prompt>(&bytes).unwrap_err();
    assert!(matches!(error, SchemaError::UnknownFingerprint { .. }), "{error:?}");
    assert!(error.to_string().contains("0fa29b72f48e043d"), "{error}");
}

#[test]
fn a_record_of_another_type_is_reported() {
    let error = decode::<Prompt>(&encode(&Head::sample()).unwrap()).unwrap_err();
    assert!(
        matches!(error, SchemaError::WrongRecord { expected: "Prompt", ref found } if found == "Head"),
        "{error:?}"
    );
    let codec = confluent();
    let bytes = in_confluent_framing(&codec, &Head::sample());
    codec.decode::<Head>(&bytes).unwrap();
    assert_eq!(codec.decode::<Prompt>(&bytes).unwrap_err().code(), "wrong-record");
}

#[test]
fn a_false_item_count_is_reported_as_truncation() {
    let mut bytes = encode(&Prompt::default()).unwrap();
    bytes.truncate(10);
    // An empty text, an empty source, then a block of 2^40 seeds.
    bytes.extend([0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 0]);
    let error = decode::<Prompt>(&bytes).unwrap_err();
    assert!(matches!(error, SchemaError::Truncated { ref field, .. } if field == "seeds"), "{error:?}");
}

#[test]
fn blocks_with_their_size_in_bytes_are_read() {
    let mut bytes = encode(&Prompt::default()).unwrap();
    bytes.truncate(10);
    // Avro allows a negative count followed by the block's size: seeds [1, 2] in one block, then 3
    // in another.
    bytes.extend([0, 0, 3, 4, 2, 4, 2, 6, 0, 0]);
    assert_eq!(decode::<Prompt>(&bytes).unwrap().seeds, [1, 2, 3]);
}

#[test]
fn an_invalid_uuid_is_reported_with_its_field() {
    let mut bytes = encode(&PromptEmbedding::sample()).unwrap();
    bytes[11] = b'x';
    let error = decode::<PromptEmbedding>(&bytes).unwrap_err();
    assert!(matches!(error, SchemaError::Malformed { ref field, .. } if field == "prompt_id"), "{error:?}");
}

#[test]
fn a_record_beyond_its_topics_limit_is_not_encoded() {
    let text = "x".repeat(4 * 1024 * 1024);
    let error = encode(&Prompt { text, ..Prompt::default() }).unwrap_err();
    assert_eq!(error.code(), "record-too-large");
}

proptest! {
    /// Decoding any bytes after a header ends in a record or an error.
    #[test]
    fn decoding_arbitrary_bytes_does_not_panic(datum in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = encode(&Prediction::sample()).unwrap();
        bytes.truncate(10);
        bytes.extend(datum);
        let _ = decode::<Prediction>(&bytes);
    }
}
