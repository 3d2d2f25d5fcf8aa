//! The Rust types, their codec and their schemas agree.

use std::collections::BTreeSet;

use apache_avro::{Schema, from_avro_datum_schemata, from_value, to_avro_datum_schemata};
use proptest::prelude::*;
use serde_json::Value as Json;
use unprompt_schemas::codec::{decode, encode};
use unprompt_schemas::records::*;
use unprompt_schemas::topics::Topic;

use crate::samples::{self, Sample};

const HEADER_BYTES: usize = 10;

/// Given a record, when we encode it, then apache-avro reads it; and when apache-avro encodes it,
/// then we read it.
fn agrees_with_apache_avro<R: Record + PartialEq>(record: &R) {
    let ours = encode(record).unwrap();
    let schema = R::schema();
    let mut datum = &ours[HEADER_BYTES..];
    let tree = from_avro_datum_schemata(schema, vec![schema], &mut datum, None).unwrap();
    assert!(datum.is_empty(), "apache-avro left {} bytes", datum.len());
    assert_eq!(&from_value::<R>(&tree).unwrap(), record);

    let mut theirs = ours[..HEADER_BYTES].to_vec();
    theirs.extend(to_avro_datum_schemata(schema, vec![schema], tree).unwrap());
    assert_eq!(&decode::<R>(&theirs).unwrap(), record);
    assert_eq!(&decode::<R>(&ours).unwrap(), record);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_prompt_agrees_with_apache_avro(record in samples::any_prompt()) {
        agrees_with_apache_avro(&record);
    }

    #[test]
    fn any_image_embedding_agrees_with_apache_avro(record in samples::any_image_embedding()) {
        agrees_with_apache_avro(&record);
    }

    #[test]
    fn any_prompt_embedding_agrees_with_apache_avro(record in samples::any_prompt_embedding()) {
        agrees_with_apache_avro(&record);
    }

    #[test]
    fn any_head_agrees_with_apache_avro(record in samples::any_head()) {
        agrees_with_apache_avro(&record);
    }

    #[test]
    fn any_prediction_agrees_with_apache_avro(record in samples::any_prediction()) {
        agrees_with_apache_avro(&record);
    }
}

#[test]
fn a_vector_of_768_components_agrees_with_apache_avro() {
    let clip =
        NamedVector { model: "clip@1".to_owned(), values: (0..768).map(|n| n as f32 / 768.0).collect() };
    agrees_with_apache_avro(&PromptEmbedding { clip, ..PromptEmbedding::sample() });
}

/// Asserts that the type has the fields of its schema, as serde names them, and that the sample has
/// every optional field.
fn has_the_fields_of_its_schema<R: Sample>() {
    same_fields(
        R::NAME,
        &serde_json::to_value(R::sample()).unwrap(),
        &serde_json::from_str(R::SCHEMA_JSON).unwrap(),
    );
}

fn same_fields(path: &str, value: &Json, schema: &Json) {
    match schema["type"].as_str() {
        Some("record") => {
            let fields = schema["fields"].as_array().unwrap();
            let in_schema: BTreeSet<&str> =
                fields.iter().map(|field| field["name"].as_str().unwrap()).collect();
            let in_type: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(in_type, in_schema, "{path}: the type's fields (left) and the schema's");
            for field in fields {
                let name = field["name"].as_str().unwrap();
                assert!(!value[name].is_null(), "{path}.{name}: the sample leaves it out");
                same_fields(&format!("{path}.{name}"), &value[name], &field["type"]);
            }
        }
        Some("array") => same_fields(path, &value[0], &schema["items"]),
        _ => {}
    }
}

#[test]
fn types_and_schemas_have_the_same_fields() {
    has_the_fields_of_its_schema::<Prompt>();
    has_the_fields_of_its_schema::<ImageEmbedding>();
    has_the_fields_of_its_schema::<PromptEmbedding>();
    has_the_fields_of_its_schema::<Head>();
    has_the_fields_of_its_schema::<Prediction>();
}

fn is_well_described<R: Record>() {
    let json: Json = serde_json::from_str(R::SCHEMA_JSON).unwrap();
    described(R::NAME, &json);
    let Schema::Record(record) = R::schema() else { panic!("{} is not a record", R::NAME) };
    assert_eq!(record.name.fullname(None), format!("unprompt.{}", R::NAME));
}

/// Asserts that every record and field has a doc, and that null is the default of every nullable
/// field, so that writers may leave it out.
fn described(path: &str, schema: &Json) {
    match schema {
        Json::Object(named) if schema["type"] == "record" => {
            assert!(named.contains_key("doc"), "{path} has no doc");
            for field in schema["fields"].as_array().unwrap() {
                let path = format!("{path}.{}", field["name"].as_str().unwrap());
                assert!(field["doc"].as_str().is_some_and(|doc| doc.ends_with('.')), "{path} has no doc");
                if field["type"].is_array() {
                    assert_eq!(field["type"][0], "null", "{path}: null comes first in a union");
                    assert_eq!(
                        field.get("default"),
                        Some(&Json::Null),
                        "{path} may be null, so null is its default"
                    );
                }
                described(&path, &field["type"]);
            }
        }
        Json::Object(_) if schema["type"] == "array" => described(path, &schema["items"]),
        _ => {}
    }
}

#[test]
fn every_field_is_described() {
    is_well_described::<Prompt>();
    is_well_described::<ImageEmbedding>();
    is_well_described::<PromptEmbedding>();
    is_well_described::<Head>();
    is_well_described::<Prediction>();
}

#[test]
fn every_avro_topic_has_its_record() {
    let topics =
        [Prompt::TOPIC, ImageEmbedding::TOPIC, PromptEmbedding::TOPIC, Head::TOPIC, Prediction::TOPIC];
    let without: Vec<Topic> = Topic::ALL.into_iter().filter(|topic| !topics.contains(topic)).collect();
    assert_eq!(without, [Topic::Images, Topic::DeadLetters]);
}
