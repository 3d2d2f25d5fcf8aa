//! The values of the topics: Avro in either framing, and prompts as plain text.

use std::sync::{Arc, LazyLock};

use unprompt_schemas::codec::{Codec, encode};
use unprompt_schemas::records::{Head, ImageEmbedding, Prediction, Prompt, PromptEmbedding, Record};
use unprompt_schemas::registry::{MemoryRegistry, Registry};

use crate::Target;

/// For a record read by our own reader: an item of an array takes 48 bytes, and as many again while
/// the array grows, twice, for its two bytes on the wire.
const OWN_FACTOR: u64 = 80;
/// For a record of another schema, which apache-avro first reads into a tree of values and then
/// resolves into a second one.
const TREE_FACTOR: u64 = 600;
/// The memory independent of the input: errors, and the schemas, which are parsed once.
const BASE_BYTES: u64 = 1024 * 1024;

/// Real records, one of each kind.
const GOLDEN: [&[u8]; 5] = [
    include_bytes!("../../../../schemas/tests/golden/Prompt.0fa29b72f48e04c2.avro"),
    include_bytes!("../../../../schemas/tests/golden/ImageEmbedding.1f132e2397593631.avro"),
    include_bytes!("../../../../schemas/tests/golden/PromptEmbedding.74133d1b4e8475e9.avro"),
    include_bytes!("../../../../schemas/tests/golden/Head.0c52b6980d9084c2.avro"),
    include_bytes!("../../../../schemas/tests/golden/Prediction.8c3f8257b90c499d.avro"),
];

/// A value of prompts.v1.
pub const PROMPT: Target = Target {
    name: "prompt",
    run: |input| {
        if let Ok(prompt) = Prompt::from_record(input, &Codec::single_object()) {
            assert!(!prompt.text.trim().is_empty(), "an empty prompt came through");
            let _ = prompt.id();
        }
    },
    seeds: || {
        vec![GOLDEN[0].to_vec(), b"a red fish".to_vec(), "\u{feff} \u{1f41f} ".into(), vec![0, 0, 0, 0, 1, 2]]
    },
    memory_bytes: |length| BASE_BYTES + OWN_FACTOR * length as u64,
};

/// A value of any topic, decoded as each of the records.
pub const RECORD: Target = Target {
    name: "record",
    run: |input| {
        let codec = Codec::single_object();
        keeps_its_bytes::<Prompt>(&codec, input);
        keeps_its_bytes::<ImageEmbedding>(&codec, input);
        keeps_its_bytes::<PromptEmbedding>(&codec, input);
        keeps_its_bytes::<Head>(&codec, input);
        keeps_its_bytes::<Prediction>(&codec, input);
    },
    seeds: || GOLDEN.map(<[u8]>::to_vec).into(),
    memory_bytes: |length| BASE_BYTES + OWN_FACTOR * length as u64,
};

/// A prompt in Confluent framing, of an older schema than ours.
pub const OLDER: Target = Target {
    name: "older-record",
    run: |input| {
        let framed = [&[0, 0, 0, 0, 1], input].concat();
        keeps_its_bytes::<Prompt>(&OLDER_CODEC, &framed);
    },
    // The text, a source, two seeds and an attribute; then the field that our schema lacks.
    seeds: || vec![b"\x08fish\x02s\x04\x02\x04\x00\x02\x02k\x02v\x00\x06".to_vec(), vec![0, 0, 0, 0, 0]],
    memory_bytes: |length| BASE_BYTES + TREE_FACTOR * length as u64,
};

/// A registry whose first schema is our prompt's with one more field.
static OLDER_CODEC: LazyLock<Codec> = LazyLock::new(|| {
    let registry = MemoryRegistry::default();
    let (fields, end) = Prompt::SCHEMA_JSON.rsplit_once(']').expect("a record has a list of fields");
    let older = format!(r#"{fields}, {{"name": "rank", "type": "long"}}]{end}"#);
    registry.id_of("prompts.v1-value", &older).expect("a registry in memory takes any schema");
    let codec = Codec::confluent(Arc::new(registry));
    // The first record loads the schema; that memory does not count for a record.
    let _ = codec.decode::<Prompt>(&[0, 0, 0, 0, 1]);
    codec
});

/// Checks that a decoded record encodes to bytes that decode and encode to the same bytes.
fn keeps_its_bytes<R: Record>(codec: &Codec, input: &[u8]) {
    let Ok(record) = codec.decode::<R>(input) else { return };
    let written = encode(&record).expect("what was read fits");
    let again = codec.decode::<R>(&written).expect("what was written is read");
    assert_eq!(encode(&again).expect("it fits still"), written, "{} changes", R::NAME);
}
