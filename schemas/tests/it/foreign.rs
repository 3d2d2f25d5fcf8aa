//! Schemas from a registry, where anyone may register them: they are read or refused, and never
//! crash the reader.

use std::sync::Arc;

use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::{Codec, encode};
use unprompt_schemas::records::*;
use unprompt_schemas::registry::{MemoryRegistry, Registry};

use crate::samples::Sample;

/// Reads the datum as a prompt written with this schema.
fn read(schema: &str, datum: &[u8]) -> Result<Prompt, SchemaError> {
    let registry = MemoryRegistry::default();
    registry.id_of("any", schema).unwrap();
    Codec::confluent(Arc::new(registry)).decode(&[&[0, 0, 0, 0, 1], datum].concat())
}

/// Returns a schema of a prompt with `text` and at most one more field.
fn prompt_with(field: &str) -> String {
    let text = r#"{"name":"text","type":"string"}"#;
    format!(r#"{{"type":"record","name":"Prompt","namespace":"unprompt","fields":[{field}{text}]}}"#)
}

fn is_refused(schema: &str) {
    let error = read(schema, &[]).unwrap_err();
    assert_eq!(error.code(), "incompatible-schema", "{schema}: {error}");
    assert!(error.to_string().len() < 3_000, "the error has {} bytes", error.to_string().len());
}

#[test]
fn custom_schema_attributes_are_ignored() {
    for attribute in [r#""precision":"high""#, r#""size":2.5"#, r#""values":5"#, r#""scale":[]"#] {
        let field = format!(r#"{{"name":"rank","type":"int",{attribute}}},"#);
        let prompt = read(&prompt_with(&field), &[2, 2, b'a']).unwrap();
        assert_eq!(prompt, Prompt { text: "a".to_owned(), ..Prompt::default() }, "{attribute}");
    }
}

#[test]
fn invalid_schema_parts_that_no_reader_needs_are_ignored() {
    let fields = [
        r#"{"name":"rank","type":"int","default":"not a number","doc":7},"#,
        r#"{"name":"rank","type":{"type":"enum","name":"E","symbols":["A"],"aliases":["no name"]}},"#,
        r#"{"name":"rank","type":{"type":"bytes","logicalType":"decimal","precision":0,"scale":9}},"#,
        r#"{"name":"rank","type":["string",{"type":"string","logicalType":"uuid"}]},"#,
    ];
    let data: [&[u8]; 4] = [&[2, 2, b'a'], &[0, 2, b'a'], &[2, 9, 2, b'a'], &[0, 2, b'x', 2, b'a']];
    for (field, datum) in fields.into_iter().zip(data) {
        let prompt = read(&prompt_with(field), datum).unwrap_or_else(|error| panic!("{field}: {error}"));
        assert_eq!(prompt.text, "a", "{field}");
    }
}

#[test]
fn invalid_schema_names_are_refused() {
    for name in ["no name", "1", "", "a..b", "\u{1f41f}"] {
        is_refused(&prompt_with("").replace(r#""Prompt""#, &format!("{name:?}")));
        let fixed = format!(r#"{{"name":"f","type":{{"type":"fixed","name":{name:?},"size":1}}}},"#);
        is_refused(&prompt_with(&fixed));
    }
}

#[test]
fn a_schema_without_a_canonical_form_is_refused_as_the_wrong_record() {
    let error = read(r#"["string",{"type":"string","logicalType":"uuid"}]"#, &[]).unwrap_err();
    assert_eq!(error.code(), "wrong-record", "{error}");
}

#[test]
fn excessively_nested_schemas_are_refused() {
    is_refused(&r#"{"type":"array","items":"#.repeat(100_000));
    is_refused(&"[".repeat(100_000));
    // Types that each nest the previous one: their text is not deep, but their unfolding is.
    let (open, close) = (r#"{"type":"array","items":"#.repeat(20), "}".repeat(20));
    let arrays = |inner: &str| format!("{open}{inner}{close}");
    let mut fields = String::new();
    let mut inner = r#""int""#.to_owned();
    for at in 0..10 {
        let record = format!(
            r#"{{"type":"record","name":"T{at}","fields":[{{"name":"f","type":{}}}]}}"#,
            arrays(&inner)
        );
        fields += &format!(r#"{{"name":"f{at}","type":{record}}},"#);
        inner = format!(r#""T{at}""#);
    }
    is_refused(&prompt_with(&fields));
}

#[test]
fn a_reason_does_not_quote_the_whole_schema() {
    let long = "x".repeat(100_000);
    is_refused(&prompt_with("").replace(r#""Prompt""#, &format!(r#""no {long}""#)));
    is_refused(&prompt_with("").replace(r#""string""#, &format!("{long:?}")));
}

#[test]
fn a_registrys_copy_of_our_schema_is_read_as_ours() {
    // A different spelling: without logical types, with a custom attribute.
    let registry = MemoryRegistry::default();
    let spelled = Prediction::SCHEMA_JSON.replacen("\"fields\"", r#""precision": "high", "fields""#, 1);
    let spelled = spelled.replace(r#", "logicalType": "timestamp-millis""#, "");
    registry.id_of("any", &spelled).unwrap();
    let bytes = [&[0, 0, 0, 0, 1], &encode(&Prediction::sample()).unwrap()[10..]].concat();
    let read: Prediction = Codec::confluent(Arc::new(registry)).decode(&bytes).unwrap();
    assert_eq!(read, Prediction::sample());
}

fn long(number: u64) -> Vec<u8> {
    let (mut left, mut bytes) = (number << 1, Vec::new());
    while left > 0x7f {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
}

/// Given items that take no bytes, many of them are refused before they are built, and a few are
/// read.
#[test]
fn zero_byte_items_are_limited_over_the_whole_record() {
    let nothings = r#"{"name":"n","type":{"type":"array","items":{"type":"array","items":"null"}}},"#;
    let wide: Vec<String> = (0..1_000).map(|at| format!(r#"{{"name":"f{at}","type":"null"}}"#)).collect();
    let record = format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, wide.join(","));
    let of_records = format!(r#"{{"name":"n","type":{{"type":"array","items":{record}}}}},"#);
    let text = [2, b'a'];

    let few = [&long(2)[..], &long(3), &[0], &long(2), &[0, 0], &text].concat();
    assert_eq!(read(&prompt_with(nothings), &few).unwrap().text, "a");

    let inner = [&long(30_000)[..], &[0]].concat();
    let many = [&long(1_000)[..], &inner.repeat(1_000), &[0], &text].concat();
    let padded = |field: &str, datum: &[u8]| {
        let pad = r#"{"name":"pad","type":"bytes"},"#;
        // The bytes after it make the counts plausible.
        let schema = prompt_with(&format!("{field}{pad}"));
        let datum = [&datum[..datum.len() - 2], &long(60_000), &vec![0; 60_000], &text].concat();
        read(&schema, &datum)
    };
    let records = [&long(10_000)[..], &[0], &text].concat();
    for (field, datum) in [(nothings, many), (&of_records[..], records)] {
        let (read, held) = crate::hostile::measured(|| padded(field, &datum));
        let error = read.unwrap_err();
        assert!(error.to_string().contains("more values than a record of so few bytes"), "{error}");
        assert!(held < 16 << 20, "it used {held} bytes");
    }
}

#[test]
fn many_items_of_a_long_enum_symbol_are_refused() {
    let symbol = "S".repeat(100_000);
    let long_enum = format!(r#"{{"type":"enum","name":"E","symbols":["{symbol}"]}}"#);
    let field = format!(r#"{{"name":"n","type":{{"type":"array","items":{long_enum}}}}},"#);
    let datum = [&long(5_000)[..], &[0; 5_000], &[0, 2, b'a']].concat();
    let error = read(&prompt_with(&field), &datum).unwrap_err();
    assert!(error.to_string().contains("more values"), "{error}");
}
