//! Schemas change only compatibly, and every schema ever written stays readable.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use apache_avro::{from_avro_datum_schemata, to_avro_datum_schemata};
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::{Codec, encode};
use unprompt_schemas::history::{self, Fingerprint};
use unprompt_schemas::records::*;
use unprompt_schemas::registry::{MemoryRegistry, Registry};

use crate::samples::Sample;

fn history_of<R: Record>() -> impl Iterator<Item = Schema> {
    let mine = history::ALL.iter().filter(|historic| historic.record == R::NAME);
    mine.map(|historic| Schema::parse_str(historic.json).unwrap())
}

fn is_in_its_history<R: Record>() {
    let current = Fingerprint::of(R::schema());
    let is_known = history_of::<R>().any(|schema| Fingerprint::of(&schema) == current);
    assert!(
        is_known,
        "{} has a new schema: copy its file to avro/history/{}/{current}.avsc, add the line to src/history.rs, and run the ignored \
         test golden::write_missing_golden_files",
        R::NAME,
        R::NAME
    );
}

fn stays_compatible<R: Record>() {
    for older in history_of::<R>() {
        let fingerprint = Fingerprint::of(&older);
        SchemaCompatibility::can_read(&older, R::schema())
            .unwrap_or_else(|error| panic!("{} cannot read what {fingerprint} wrote: {error}", R::NAME));
        SchemaCompatibility::can_read(R::schema(), &older).unwrap_or_else(|error| {
            panic!("readers of {fingerprint} cannot read what {} writes now: {error}", R::NAME)
        });
    }
}

#[test]
fn every_current_schema_is_in_the_history() {
    is_in_its_history::<Prompt>();
    is_in_its_history::<ImageEmbedding>();
    is_in_its_history::<PromptEmbedding>();
    is_in_its_history::<Head>();
    is_in_its_history::<Prediction>();
}

#[test]
fn every_historic_schema_is_compatible_in_both_directions() {
    stays_compatible::<Prompt>();
    stays_compatible::<ImageEmbedding>();
    stays_compatible::<PromptEmbedding>();
    stays_compatible::<Head>();
    stays_compatible::<Prediction>();
}

#[test]
fn the_history_is_complete_and_correctly_named() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("avro/history");
    let mut files = BTreeSet::new();
    for record in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        for file in fs::read_dir(record.path()).unwrap().map(Result::unwrap) {
            files.insert(format!("{}/{}", record.file_name().display(), file.file_name().display()));
        }
    }
    let listed =
        history::ALL.iter().map(|known| format!("{}/{}.avsc", known.record, known.fingerprint)).collect();
    assert_eq!(files, listed, "the files (left) and the list in src/history.rs");
    for known in history::ALL {
        let schema = Schema::parse_str(known.json).unwrap();
        assert_eq!(Fingerprint::of(&schema).to_string(), known.fingerprint, "{}", known.record);
        assert_eq!(schema.name().unwrap().name, known.record);
    }
}

/// Returns the current schema with a part of its text replaced.
fn changed<R: Record>(from: &str, to: &str) -> Schema {
    assert!(R::SCHEMA_JSON.contains(from), "{} has no {from}", R::NAME);
    Schema::parse_str(&R::SCHEMA_JSON.replacen(from, to, 1)).unwrap()
}

#[test]
fn an_incompatible_change_is_detected() {
    let added = changed::<Prompt>("\"fields\": [", r#""fields": [{ "name": "more", "type": "string" },"#);
    assert!(
        SchemaCompatibility::can_read(Prompt::schema(), &added).is_err(),
        "a new field without a default"
    );
    let renamed = changed::<Prompt>(r#""name": "text""#, r#""name": "words""#);
    assert!(SchemaCompatibility::can_read(&renamed, Prompt::schema()).is_err(), "a field that is gone");
    let retyped = changed::<Prediction>(
        r#""name": "source_offset", "type": "long""#,
        r#""name": "source_offset", "type": "string""#,
    );
    assert!(
        SchemaCompatibility::can_read(&retyped, Prediction::schema()).is_err(),
        "a field of another type"
    );
}

/// Registers a writer's schema, writes the tree with it, and reads it as the current record.
fn read_as_today<R: Record>(writer: &Schema, tree: Value) -> Result<R, SchemaError> {
    let registry = MemoryRegistry::default();
    let id = registry.id_of("prompts.v1-value", &serde_json::to_string(writer).unwrap()).unwrap();
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    bytes.extend(to_avro_datum_schemata(writer, vec![writer], tree).unwrap());
    Codec::confluent(Arc::new(registry)).decode(&bytes)
}

fn tree_of<R: Record>(record: &R) -> Value {
    let bytes = encode(record).unwrap();
    from_avro_datum_schemata(R::schema(), vec![R::schema()], &mut &bytes[10..], None).unwrap()
}

/// Given a writer whose schema has one more field, all our fields are still read: identities, keys,
/// vectors, maps.
fn survives_a_field_of_the_future<R: Sample>() {
    let writer =
        changed::<R>("\"fields\": [", r#""fields": [{ "name": "future", "type": "int", "default": 0 },"#);
    let Value::Record(mut fields) = tree_of(&R::sample()) else { panic!("not a record") };
    fields.insert(0, ("future".to_owned(), Value::Int(7)));
    assert_eq!(read_as_today::<R>(&writer, Value::Record(fields)).unwrap(), R::sample());
}

#[test]
fn fields_added_later_are_ignored() {
    survives_a_field_of_the_future::<Prompt>();
    survives_a_field_of_the_future::<ImageEmbedding>();
    survives_a_field_of_the_future::<PromptEmbedding>();
    survives_a_field_of_the_future::<Head>();
    survives_a_field_of_the_future::<Prediction>();
}

#[test]
fn fields_absent_from_the_writers_schema_get_their_defaults() {
    let writer = Schema::parse_str(
        r#"{"type":"record","name":"Prompt","namespace":"unprompt","fields":[{"name":"text","type":"string"}]}"#,
    );
    let tree = Value::Record(vec![("text".to_owned(), Value::String("a fox".to_owned()))]);
    let prompt: Prompt = read_as_today(&writer.unwrap(), tree).unwrap();
    assert_eq!(prompt, Prompt { text: "a fox".to_owned(), ..Prompt::default() });
}

#[test]
fn an_incompatible_writer_schema_is_reported() {
    let writer = changed::<Prompt>(r#""name": "text""#, r#""name": "words""#);
    let Value::Record(mut fields) = tree_of(&Prompt::sample()) else { panic!("not a record") };
    fields[0].0 = "words".to_owned();
    let error = read_as_today::<Prompt>(&writer, Value::Record(fields)).unwrap_err();
    assert_eq!(error.code(), "incompatible-schema");
    assert!(error.to_string().contains("text"), "{error}");
}

#[test]
fn truncated_and_trailing_bytes_of_another_schema_are_reported() {
    let writer = changed::<Prediction>(
        "\"fields\": [",
        r#""fields": [{ "name": "future", "type": "int", "default": 0 },"#,
    );
    let registry = Arc::new(MemoryRegistry::default());
    let id = registry.id_of("any", &serde_json::to_string(&writer).unwrap()).unwrap();
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    bytes.push(14);
    bytes.extend(&encode(&Prediction::sample()).unwrap()[10..]);
    let codec = Codec::confluent(registry);
    assert_eq!(codec.decode::<Prediction>(&bytes).unwrap(), Prediction::sample());
    for length in 5..bytes.len() {
        assert_eq!(codec.decode::<Prediction>(&bytes[..length]).unwrap_err().code(), "truncated-record");
    }
    bytes.push(0);
    assert_eq!(codec.decode::<Prediction>(&bytes).unwrap_err().code(), "trailing-bytes");
}

#[test]
fn a_huge_block_of_zero_byte_items_is_refused() {
    let nothings = r#""fields": [{ "name": "nothings", "type": { "type": "array", "items": "null" } },"#;
    let writer = changed::<Prompt>("\"fields\": [", nothings);
    let registry = Arc::new(MemoryRegistry::default());
    let id = registry.id_of("any", &serde_json::to_string(&writer).unwrap()).unwrap();
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    // A block of 2^61 nulls.
    bytes.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 0]);
    let error = Codec::confluent(registry).decode::<Prompt>(&bytes).unwrap_err();
    assert!(matches!(error, SchemaError::Truncated { ref field, .. } if field == "nothings"), "{error:?}");
}

/// A short schema whose definitions each name the previous one twice is refused before it fills the
/// memory.
#[test]
fn an_exponentially_expanding_schema_is_refused() {
    let mut inner = r#"{"type":"record","name":"T0","fields":[{"name":"a","type":"int"}]}"#.to_owned();
    for depth in 1..=30 {
        inner = format!(
            r#"{{"type":"record","name":"T{depth}","fields":[{{"name":"a","type":{inner}}},{{"name":"b","type":"T{}"}}]}}"#,
            depth - 1
        );
    }
    let writer =
        format!(r#"{{"type":"record","name":"Prompt","fields":[{{"name":"text","type":{inner}}}]}}"#);
    let registry = Arc::new(MemoryRegistry::default());
    let id = registry.id_of("any", &writer).unwrap();
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    let error = Codec::confluent(registry).decode::<Prompt>(&bytes).unwrap_err();
    assert_eq!(error.code(), "incompatible-schema");
    assert!(error.to_string().contains("more than"), "{error}");
}

/// Given a writer of narrower numbers, they are widened by Avro's rules of schema resolution.
#[test]
fn promoted_types_are_read() {
    let writer = changed::<Prompt>(r#""items": "long""#, r#""items": "int""#);
    let Value::Record(mut fields) = tree_of(&Prompt::sample()) else { panic!("not a record") };
    fields[2].1 = Value::Array(vec![Value::Int(5), Value::Int(-6)]);
    let prompt: Prompt = read_as_today(&writer, Value::Record(fields)).unwrap();
    assert_eq!(prompt.seeds, [5, -6]);
}
