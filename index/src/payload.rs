//! Conversions between our types and the client's: ids, payloads and vectors.

use std::collections::{BTreeMap, HashMap};

use qdrant_client::Payload;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::vector_output::Vector as OutputVector;
use qdrant_client::qdrant::vectors_output::VectorsOptions;
use qdrant_client::qdrant::{
    NamedVectors, PointId, PointStruct, RetrievedPoint, ScoredPoint, Struct, Value, VectorsOutput,
    VectorsSelector, WithVectorsSelector, with_vectors_selector::SelectorOptions,
};
use uuid::Uuid;

use crate::point::Known;
use crate::{Hit, IndexError, PromptPoint, Space, Version};

pub(crate) const TEXT: &str = "text";
pub(crate) const SOURCES: &str = "sources";
pub(crate) const CREATED_AT: &str = "created_at";
/// The time of the latest write, and the partition that it came from. Points that did not come from
/// a topic lack both.
pub(crate) const UPDATED_AT: &str = "updated_at";
pub(crate) const UPDATED_IN: &str = "updated_in";
/// The time of a deletion, in the collection of deletions.
pub(crate) const DELETED_AT: &str = "deleted_at";
pub(crate) const DELETED_IN: &str = "deleted_in";
/// The time at which a deletion was remembered. It may have been read long after it was published.
pub(crate) const REMEMBERED_AT: &str = "remembered_at";
pub(crate) const ATTRIBUTES: &str = "attributes";
/// The length of the text in characters. Points written before this field existed lack it, and no
/// range on it matches them.
pub(crate) const LENGTH: &str = "length";

pub(crate) type Fields = HashMap<String, Value>;

/// The path of an attribute in the payload. It is quoted, since a name may contain dots and
/// brackets; a path cannot express a quote or a backslash.
pub(crate) fn attribute_path(key: &str) -> Result<String, IndexError> {
    if key.contains(['"', '\\']) {
        return Err(IndexError::InvalidQuery { reason: format!("no filter can name the attribute {key:?}") });
    }
    Ok(format!("{ATTRIBUTES}.\"{key}\""))
}

pub(crate) fn point_id(id: Uuid) -> PointId {
    PointId::from(id.hyphenated().to_string())
}

pub(crate) fn vectors_selector(spaces: &[Space]) -> WithVectorsSelector {
    let options = if spaces.is_empty() {
        SelectorOptions::Enable(false)
    } else {
        SelectorOptions::Include(VectorsSelector {
            names: spaces.iter().map(|s| s.name().to_owned()).collect(),
        })
    };
    WithVectorsSelector { selector_options: Some(options) }
}

pub(crate) fn to_point(point: PromptPoint) -> PointStruct {
    let mut payload = Payload::new();
    payload.insert(LENGTH, i64::try_from(point.text.chars().count()).unwrap_or(i64::MAX));
    payload.insert(TEXT, point.text);
    payload.insert(SOURCES, point.sources);
    payload.insert(CREATED_AT, point.created_at_ms);
    if let Some(version) = point.version {
        insert_version(&mut payload, version, [UPDATED_AT, UPDATED_IN]);
    }
    payload.insert(ATTRIBUTES, attributes_value(point.attributes));
    let vectors = NamedVectors::default()
        .add_vector(Space::Clip.name(), point.clip)
        .add_vector(Space::MiniLm.name(), point.minilm);
    PointStruct::new(point_id(point.prompt_id), vectors, payload)
}

/// Writes a version into the fields of its time and of its partition.
pub(crate) fn insert_version(payload: &mut Payload, version: Version, [at, partition]: [&str; 2]) {
    payload.insert(at, version.at_ms);
    if let Some(number) = version.partition {
        payload.insert(partition, i64::from(number));
    }
}

/// Reads a version from the fields of its time and of its partition.
pub(crate) fn version(fields: &Fields, [at, partition]: [&str; 2]) -> Option<Version> {
    let number = |field: &str| fields.get(field).and_then(Value::as_integer);
    let partition = number(partition).and_then(|number| i32::try_from(number).ok());
    Some(Version { at_ms: number(at)?, partition })
}

fn attributes_value(attributes: BTreeMap<String, String>) -> Value {
    let fields = attributes.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}

pub(crate) fn to_prompt(point: RetrievedPoint) -> Result<PromptPoint, IndexError> {
    let prompt_id = prompt_id(point.id)?;
    let mut vectors = named_vectors(point.vectors);
    let known = known_from(&point.payload);
    Ok(PromptPoint {
        prompt_id,
        text: text_of(prompt_id, &point.payload)?,
        sources: known.sources,
        created_at_ms: known.created_at_ms,
        version: known.version,
        attributes: known.attributes,
        minilm: vectors.remove(Space::MiniLm.name()).unwrap_or_default(),
        clip: vectors.remove(Space::Clip.name()).unwrap_or_default(),
    })
}

pub(crate) fn to_text(point: RetrievedPoint) -> Result<(Uuid, String), IndexError> {
    let prompt_id = prompt_id(point.id)?;
    Ok((prompt_id, text_of(prompt_id, &point.payload)?))
}

pub(crate) fn to_known(point: RetrievedPoint) -> Result<(Uuid, Known), IndexError> {
    Ok((prompt_id(point.id)?, known_from(&point.payload)))
}

/// Converts an answer; without a requested payload its text is empty.
pub(crate) fn to_hit(point: ScoredPoint, with_payload: bool) -> Result<Hit, IndexError> {
    let prompt_id = prompt_id(point.id)?;
    let text = if with_payload { text_of(prompt_id, &point.payload)? } else { String::new() };
    let mut vectors = named_vectors(point.vectors);
    let known = known_from(&point.payload);
    Ok(Hit {
        prompt_id,
        text,
        sources: known.sources,
        created_at_ms: known.created_at_ms,
        attributes: known.attributes,
        similarity: point.score,
        near_duplicates: Vec::new(),
        minilm: vectors.remove(Space::MiniLm.name()),
        clip: vectors.remove(Space::Clip.name()),
    })
}

/// Converts a point that is read for an answer whose similarity is known.
pub(crate) fn to_hit_of(point: RetrievedPoint, with_payload: bool) -> Result<Hit, IndexError> {
    let RetrievedPoint { id, payload, vectors, .. } = point;
    to_hit(ScoredPoint { id, payload, vectors, ..Default::default() }, with_payload)
}

pub(crate) fn prompt_id(id: Option<PointId>) -> Result<Uuid, IndexError> {
    let foreign = |id: String| IndexError::ForeignPoint { id, reason: "its id is not a UUID".into() };
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Uuid(text)) => Uuid::parse_str(&text).map_err(|_| foreign(text)),
        Some(PointIdOptions::Num(number)) => Err(foreign(number.to_string())),
        None => Err(foreign("(none)".into())),
    }
}

fn text_of(prompt_id: Uuid, fields: &Fields) -> Result<String, IndexError> {
    let text = fields.get(TEXT).and_then(|value| value.as_str()).cloned();
    text.ok_or_else(|| IndexError::ForeignPoint {
        id: prompt_id.to_string(),
        reason: format!("its payload has no {TEXT}"),
    })
}

fn known_from(fields: &Fields) -> Known {
    Known {
        sources: strings(fields.get(SOURCES)),
        created_at_ms: fields.get(CREATED_AT).and_then(Value::as_integer).unwrap_or_default(),
        version: version(fields, [UPDATED_AT, UPDATED_IN]),
        attributes: attributes(fields.get(ATTRIBUTES)),
        has_length: fields.contains_key(LENGTH),
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(|value| value.as_list()).unwrap_or_default();
    list.iter().filter_map(|item| item.as_str().cloned()).collect()
}

fn attributes(value: Option<&Value>) -> BTreeMap<String, String> {
    let Some(Kind::StructValue(object)) = value.and_then(|value| value.kind.as_ref()) else {
        return BTreeMap::new();
    };
    let text = |(key, value): (&String, &Value)| value.as_str().map(|value| (key.clone(), value.clone()));
    object.fields.iter().filter_map(text).collect()
}

fn named_vectors(vectors: Option<VectorsOutput>) -> HashMap<String, Vec<f32>> {
    let Some(VectorsOptions::Vectors(named)) = vectors.and_then(|vectors| vectors.vectors_options) else {
        return HashMap::new();
    };
    let dense = |(name, vector): (String, qdrant_client::qdrant::VectorOutput)| match vector.into_vector() {
        OutputVector::Dense(dense) => Some((name, dense.data)),
        _ => None,
    };
    named.vectors.into_iter().filter_map(dense).collect()
}
