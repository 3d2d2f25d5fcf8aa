//! Conversions between Qdrant's protobuf messages and qdrant-edge's types. They must not know
//! shards, files or services.
//!
//! Where an edge type deserialises from the JSON of Qdrant's REST API, the message is converted to
//! that JSON and parsed by the edge type, so that edge's own checks apply.

pub(crate) mod config;
pub(crate) mod filter;
pub(crate) mod ids;
pub(crate) mod payload;
pub(crate) mod payload_index;
mod quantisation;
pub(crate) mod query;
pub(crate) mod update;
pub(crate) mod vectors;

use qdrant_edge::JsonPath;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use tonic::Status;

/// Parses an edge type from its JSON.
fn from_json<T: DeserializeOwned>(what: &str, json: Json) -> Result<T, Status> {
    serde_json::from_value(json)
        .map_err(|error| Status::invalid_argument(format!("{what} is malformed: {error}")))
}

/// Parses a path into a payload.
pub(crate) fn path(key: &str) -> Result<JsonPath, Status> {
    key.parse().map_err(|()| Status::invalid_argument(format!("{key:?} is not a path into a payload")))
}

/// Builds a JSON object from the members that have a value.
fn object(members: impl IntoIterator<Item = (&'static str, Option<Json>)>) -> Json {
    let present = members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Json::Object(present.collect::<Map<_, _>>())
}
