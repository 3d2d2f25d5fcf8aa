//! The answer of a registry, and a record that refers to it: either may come from a stranger.

use std::sync::Arc;

use unprompt_schemas::codec::{Codec, encode};
use unprompt_schemas::records::{Prediction, Prompt, Record};
use unprompt_schemas::registry::{MemoryRegistry, Registry};

use crate::Target;

/// A schema expands to at most 10,000 types, of a few hundred bytes each, which are copied a few
/// times. A record has at most 65,536 values more than its bytes account for.
const BASE_BYTES: u64 = 128 * 1024 * 1024;
/// Values of a few hundred bytes each, four per byte, in two trees.
const FACTOR: u64 = 8 * 1024;

/// A writer's schema (JSON), a zero, and a datum written with it.
pub const FOREIGN: Target = Target {
    name: "foreign-schema",
    run: |input| {
        let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
        let (schema, datum) = input.split_at(end);
        let Ok(schema) = str::from_utf8(schema) else { return };
        reads_or_refuses::<Prompt>(schema, datum.get(1..).unwrap_or_default());
        reads_or_refuses::<Prediction>(schema, datum.get(1..).unwrap_or_default());
    },
    seeds,
    memory_bytes: |length| BASE_BYTES + FACTOR * length as u64,
};

/// Decodes the datum; encodes what was decoded. No error may be fatal or transient.
fn reads_or_refuses<R: Record>(schema: &str, datum: &[u8]) {
    let registry = MemoryRegistry::default();
    let Ok(id) = registry.id_of("prompts.v1-value", schema) else { return };
    let framed = [&[0], &id.to_be_bytes()[..], datum].concat();
    match Codec::confluent(Arc::new(registry)).decode::<R>(&framed) {
        Ok(record) => drop(encode(&record)),
        Err(error) => assert!(!error.is_fatal() && !error.is_transient(), "a stranger stops us: {error}"),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let prompt = |field: &str| {
        let text = r#"{"name":"text","type":"string"}"#;
        format!(r#"{{"type":"record","name":"Prompt","namespace":"unprompt","fields":[{field}{text}]}}"#)
    };
    let seed = |schema: &str, datum: &[u8]| [schema.as_bytes(), &[0], datum].concat();
    let nulls = r#"{"name":"n","type":{"type":"array","items":{"type":"array","items":"null"}}},"#;
    let precise = r#"{"name":"n","type":["null",{"type":"int","precision":"high"}],"default":null},"#;
    let symbols = r#"{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}},"#;
    let decimal = r#"{"name":"b","type":{"type":"bytes","logicalType":"decimal","precision":4}},"#;
    let fixed = r#"{"name":"f","type":{"type":"fixed","name":"F","size":2,"aliases":["no name"]}},"#;
    vec![
        seed(Prompt::SCHEMA_JSON, b"\x08fish\x02s\x04\x02\x04\x00\x02\x02k\x02v\x00"),
        seed(&prompt(""), b"\x08fish"),
        seed(&prompt(nulls), b"\x04\x06\x00\x04\x00\x00\x08fish"),
        seed(&prompt(precise), b"\x02\x04\x08fish"),
        seed(&prompt(symbols), b"\x02\x08fish"),
        seed(&prompt(decimal), b"\x02\x07\x08fish"),
        seed(&prompt(fixed), b"ab\x08fish"),
        seed(r#"["string",{"type":"string","logicalType":"uuid"}]"#, b"\x00\x02a"),
    ]
}
