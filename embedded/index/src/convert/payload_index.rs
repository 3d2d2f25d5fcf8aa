//! The kinds of payload index, and the description of a collection's payload indexes.

use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::{
    FieldType, Memory, PayloadIndexParams, PayloadSchemaInfo, PayloadSchemaType, TokenizerType,
};
use qdrant_edge::{PayloadFieldSchema, PayloadIndexInfo, PayloadSchemaType as EdgeType};
use serde_json::{Value as Json, json};
use tonic::Status;

use super::{from_json, object};

/// Converts a request for a payload index: by its parameters if there are any, otherwise by its
/// type.
pub(crate) fn schema_to_edge(
    field_type: Option<i32>,
    params: Option<PayloadIndexParams>,
) -> Result<PayloadFieldSchema, Status> {
    if let Some(params) = params.and_then(|params| params.index_params) {
        return from_json("the payload index", params_json(params)?);
    }
    let field_type = field_type.map(FieldType::try_from);
    Ok(PayloadFieldSchema::FieldType(match field_type {
        Some(Ok(FieldType::Keyword)) => EdgeType::Keyword,
        Some(Ok(FieldType::Integer)) => EdgeType::Integer,
        Some(Ok(FieldType::Float)) => EdgeType::Float,
        Some(Ok(FieldType::Geo)) => EdgeType::Geo,
        Some(Ok(FieldType::Text)) => EdgeType::Text,
        Some(Ok(FieldType::Bool)) => EdgeType::Bool,
        Some(Ok(FieldType::Datetime)) => EdgeType::Datetime,
        Some(Ok(FieldType::Uuid)) => EdgeType::Uuid,
        Some(Err(_)) | None => {
            return Err(Status::invalid_argument("say which type the payload index is of"));
        }
    }))
}

fn params_json(params: IndexParams) -> Result<Json, Status> {
    // The fields that every kind has. This is a macro because the messages share no trait.
    macro_rules! with_common {
        ($kind:literal, $params:ident, [$(($key:literal, $value:expr)),*]) => {
            object([
                ("type", Some(json!($kind))),
                ("on_disk", $params.on_disk.map(Json::Bool)),
                ("enable_hnsw", $params.enable_hnsw.map(Json::Bool)),
                ("memory", memory_json($params.memory)),
                ("nested", $params.nested.map(Json::String)),
                $(($key, $value)),*
            ])
        };
    }
    #[allow(deprecated)] // clients before 1.19 say `on_disk`, not `memory`
    Ok(match params {
        IndexParams::KeywordIndexParams(p) => with_common!(
            "keyword",
            p,
            [("is_tenant", p.is_tenant.map(Json::Bool)), ("prefix", p.prefix.map(|_| Json::Bool(true)))]
        ),
        IndexParams::IntegerIndexParams(p) => with_common!(
            "integer",
            p,
            [
                ("lookup", p.lookup.map(Json::Bool)),
                ("range", p.range.map(Json::Bool)),
                ("is_principal", p.is_principal.map(Json::Bool))
            ]
        ),
        IndexParams::FloatIndexParams(p) => {
            with_common!("float", p, [("is_principal", p.is_principal.map(Json::Bool))])
        }
        IndexParams::DatetimeIndexParams(p) => {
            with_common!("datetime", p, [("is_principal", p.is_principal.map(Json::Bool))])
        }
        IndexParams::UuidIndexParams(p) => {
            with_common!("uuid", p, [("is_tenant", p.is_tenant.map(Json::Bool))])
        }
        IndexParams::GeoIndexParams(p) => with_common!("geo", p, []),
        IndexParams::BoolIndexParams(p) => with_common!("bool", p, []),
        IndexParams::TextIndexParams(p) => {
            if p.stopwords.is_some() || p.stemmer.is_some() || p.scoring.is_some() {
                return Err(Status::unimplemented("text indexes with stop words, stemming or scoring"));
            }
            with_common!(
                "text",
                p,
                [
                    ("tokenizer", tokenizer_json(p.tokenizer)),
                    ("lowercase", p.lowercase.map(Json::Bool)),
                    ("ascii_folding", p.ascii_folding.map(Json::Bool)),
                    ("phrase_matching", p.phrase_matching.map(Json::Bool)),
                    ("min_token_len", p.min_token_len.map(|len| json!(len))),
                    ("max_token_len", p.max_token_len.map(|len| json!(len)))
                ]
            )
        }
    })
}

pub(super) fn memory_json(memory: Option<i32>) -> Option<Json> {
    match memory.map(Memory::try_from)? {
        Ok(Memory::Cold) => Some(json!("cold")),
        Ok(Memory::Cached) => Some(json!("cached")),
        Ok(Memory::Pinned) => Some(json!("pinned")),
        Ok(Memory::Unknown) | Err(_) => None,
    }
}

fn tokenizer_json(tokenizer: i32) -> Option<Json> {
    match TokenizerType::try_from(tokenizer) {
        Ok(TokenizerType::Prefix) => Some(json!("prefix")),
        Ok(TokenizerType::Whitespace) => Some(json!("whitespace")),
        Ok(TokenizerType::Word) => Some(json!("word")),
        Ok(TokenizerType::Multilingual) => Some(json!("multilingual")),
        _ => None,
    }
}

pub(crate) fn info_from_edge(info: &PayloadIndexInfo) -> PayloadSchemaInfo {
    let data_type = match info.data_type {
        EdgeType::Keyword => PayloadSchemaType::Keyword,
        EdgeType::Integer => PayloadSchemaType::Integer,
        EdgeType::Float => PayloadSchemaType::Float,
        EdgeType::Geo => PayloadSchemaType::Geo,
        EdgeType::Text => PayloadSchemaType::Text,
        EdgeType::Bool => PayloadSchemaType::Bool,
        EdgeType::Datetime => PayloadSchemaType::Datetime,
        EdgeType::Uuid => PayloadSchemaType::Uuid,
    };
    PayloadSchemaInfo { data_type: data_type.into(), params: None, points: Some(info.points as u64) }
}
