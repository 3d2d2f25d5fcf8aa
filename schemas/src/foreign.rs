//! Foreign schemas: reduces a registry's answer to the attributes of the byte layout before
//! apache-avro sees it.
//!
//! apache-avro 0.21 panics on invalid names and aliases, and keeps or checks much that no reader
//! needs: defaults, documentation, custom attributes. serde_json refuses texts that nest deeper
//! than 128.

use std::panic::{AssertUnwindSafe, catch_unwind};

use apache_avro::schema::Schema;
use serde_json::{Map, Value};

/// The longest error text kept for a schema: apache-avro may quote the whole schema.
const REASON_MAX_CHARS: usize = 500;

/// The logical types that are kept. Others, such as decimals, are read as the type that stores
/// them.
const LOGICAL_TYPES: [&str; 10] = [
    "uuid",
    "date",
    "time-millis",
    "time-micros",
    "timestamp-millis",
    "timestamp-micros",
    "timestamp-nanos",
    "local-timestamp-millis",
    "local-timestamp-micros",
    "local-timestamp-nanos",
];

/// Parses a foreign schema.
///
/// # Errors
/// Why the text is no Avro schema.
pub fn parse(json: &str) -> Result<Schema, String> {
    guarded(|| {
        let whole: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Schema::parse(&reduced(&whole)?).map_err(|error| error.to_string())
    })
}

/// Runs apache-avro on foreign input and turns a panic that the checks here missed into an error.
///
/// # Errors
/// Those of `f`, shortened, and a panic.
pub fn guarded<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let ended = catch_unwind(AssertUnwindSafe(f));
    let result = ended.unwrap_or_else(|_| Err("apache-avro gave up on it".to_owned()));
    result.map_err(|reason| reason.chars().take(REASON_MAX_CHARS).collect())
}

/// Returns the schema without attributes that do not affect its layout.
fn reduced(schema: &Value) -> Result<Value, String> {
    match schema {
        Value::Array(parts) => parts.iter().map(reduced).collect::<Result<_, _>>().map(Value::Array),
        Value::Object(attributes) => {
            let kept = attributes.iter().filter(|(key, value)| is_of_the_layout(key, value, attributes));
            let kept = kept.map(|(key, value)| Ok((key.clone(), reduced_attribute(key, value)?)));
            kept.collect::<Result<Map<_, _>, String>>().map(Value::Object)
        }
        other => Ok(other.clone()),
    }
}

fn is_of_the_layout(key: &str, value: &Value, attributes: &Map<String, Value>) -> bool {
    match key {
        "type" | "name" | "namespace" | "fields" | "symbols" | "items" | "values" | "size" => true,
        "logicalType" => {
            let is_fixed = attributes.get("type").is_some_and(|stored| stored == "fixed");
            !is_fixed && value.as_str().is_some_and(|name| LOGICAL_TYPES.contains(&name))
        }
        _ => false,
    }
}

fn reduced_attribute(key: &str, value: &Value) -> Result<Value, String> {
    match (key, value) {
        ("type" | "fields" | "items" | "values", _) => reduced(value),
        ("name", Value::String(name)) if !is_name(name) => Err(format!("{name:?} is not a name")),
        _ => Ok(value.clone()),
    }
}

/// Returns whether the text is a name, with or without a namespace.
fn is_name(text: &str) -> bool {
    text.split('.').all(|part| {
        let begins = part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        begins && part.chars().all(|other| other.is_ascii_alphanumeric() || other == '_')
    })
}
