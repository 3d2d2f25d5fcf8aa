//! The configuration of a collection in three forms: a client's request, edge's configuration and
//! the description in a response.

use qdrant_client::qdrant::{
    CollectionConfig, CollectionParams, CreateCollection, Datatype, Distance, HnswConfigDiff, Modifier,
    OptimizersConfigDiff, SparseVectorParams, VectorParams, WalConfigDiff, vectors_config,
};
use qdrant_edge::{DEFAULT_VECTOR_NAME, EdgeConfig, EdgeOptimizersConfig, HnswIndexConfig};
use serde_json::{Map, Value as Json, json};
use tonic::Status;

use super::payload_index::memory_json;
use super::update::hnsw_after;
use super::{from_json, object, quantisation};

/// The size of a segment's vectors, in KB, above which it is no longer merged: about 1.3 million
/// vectors of 384 dimensions. Edge's own default depends on the number of cores, so it would differ
/// between machines.
const MAX_SEGMENT_SIZE_KB: u64 = 2_000_000;
/// The target number of segments. A search visits every segment.
const SEGMENTS: u64 = 2;

/// Builds the configuration to store from a request to create a collection, with all of edge's
/// defaults spelled out.
#[allow(deprecated)] // clients before 1.19 say `on_disk_payload`, not `payload.memory`
pub(crate) fn of_create(create: CreateCollection) -> Result<CollectionConfig, Status> {
    refuse_unsupported(&create)?;
    let params = CollectionParams {
        shard_number: 1,
        on_disk_payload: create.on_disk_payload.unwrap_or(true),
        vectors_config: create.vectors_config,
        replication_factor: Some(1),
        write_consistency_factor: Some(1),
        sparse_vectors_config: create.sparse_vectors_config,
        payload: create.payload,
        id_tracker: create.id_tracker,
        ..Default::default()
    };
    Ok(CollectionConfig {
        params: Some(params),
        hnsw_config: Some(hnsw_defaults(create.hnsw_config.unwrap_or_default())),
        optimizer_config: Some(optimizer_defaults(create.optimizers_config.unwrap_or_default())),
        wal_config: Some(wal_defaults(create.wal_config.unwrap_or_default())),
        quantization_config: create.quantization_config,
        strict_mode_config: None,
        metadata: create.metadata,
    })
}

fn refuse_unsupported(create: &CreateCollection) -> Result<(), Status> {
    let refuse = |what: &str| Err(Status::unimplemented(format!("the embedded index has no {what}")));
    if create.sharding_method.is_some_and(|method| method != 0) {
        return refuse("custom sharding");
    }
    if create.strict_mode_config.as_ref().is_some_and(|strict| strict.enabled == Some(true)) {
        return refuse("strict mode");
    }
    if create.optimizers_config.as_ref().is_some_and(|config| config.prevent_unoptimized == Some(true)) {
        return refuse("prevent_unoptimized");
    }
    Ok(())
}

fn hnsw_defaults(diff: HnswConfigDiff) -> HnswConfigDiff {
    let edge = HnswIndexConfig::default();
    HnswConfigDiff {
        m: diff.m.or(Some(edge.m as u64)),
        ef_construct: diff.ef_construct.or(Some(edge.ef_construct as u64)),
        full_scan_threshold: diff.full_scan_threshold.or(Some(edge.full_scan_threshold as u64)),
        max_indexing_threads: diff.max_indexing_threads.or(Some(0)),
        ..diff
    }
}

fn optimizer_defaults(diff: OptimizersConfigDiff) -> OptimizersConfigDiff {
    OptimizersConfigDiff {
        deleted_threshold: diff.deleted_threshold.or(Some(0.2)),
        vacuum_min_vector_number: diff.vacuum_min_vector_number.or(Some(1000)),
        default_segment_number: diff.default_segment_number.filter(|number| *number > 0).or(Some(SEGMENTS)),
        max_segment_size: diff.max_segment_size.or(Some(MAX_SEGMENT_SIZE_KB)),
        indexing_threshold: diff.indexing_threshold.or(Some(10_000)),
        flush_interval_sec: Some(0),
        ..diff
    }
}

fn wal_defaults(diff: WalConfigDiff) -> WalConfigDiff {
    WalConfigDiff {
        wal_capacity_mb: diff.wal_capacity_mb.or(Some(32)),
        wal_segments_ahead: diff.wal_segments_ahead.or(Some(0)),
        wal_retain_closed: diff.wal_retain_closed.or(Some(1)),
    }
}

/// Converts a stored configuration to edge's form.
#[allow(deprecated)] // clients before 1.19 say `on_disk_payload`, not `payload.memory`
pub(crate) fn to_edge(config: &CollectionConfig) -> Result<EdgeConfig, Status> {
    let params = config.params.clone().unwrap_or_default();
    let hnsw = config.hnsw_config.unwrap_or_default();
    let mut vectors = Map::new();
    for (name, vector) in dense_params(config) {
        vectors.insert(name, vector_json(vector, hnsw)?);
    }
    let mut sparse = Map::new();
    for (name, vector) in params.sparse_vectors_config.unwrap_or_default().map {
        sparse.insert(name, sparse_json(vector));
    }
    let json = object([
        ("on_disk_payload", Some(Json::Bool(params.on_disk_payload))),
        ("payload_memory", params.payload.and_then(|payload| memory_json(payload.memory))),
        ("id_tracker_memory", params.id_tracker.and_then(|tracker| memory_json(tracker.memory))),
        ("vectors", Some(Json::Object(vectors))),
        ("sparse_vectors", Some(Json::Object(sparse))),
        ("hnsw_config", Some(hnsw_json(hnsw)?)),
        ("quantization_config", config.quantization_config.map(quantisation::to_json).transpose()?.flatten()),
        ("wal_options", config.wal_config.as_ref().map(wal_json)),
    ]);
    let mut edge: EdgeConfig = from_json("the collection's configuration", json)?;
    edge.optimizers = Some(optimizers_to_edge(&config.optimizer_config.unwrap_or_default()));
    // A search runs on the calling thread: handing its few segments to a pool took a fifth of its
    // time on two cores.
    edge.max_search_threads = Some(1);
    Ok(edge)
}

/// The dense vectors of a configuration by name. The unnamed vector has an empty name.
pub(crate) fn dense_params(config: &CollectionConfig) -> Vec<(String, VectorParams)> {
    let vectors = config.params.as_ref().and_then(|params| params.vectors_config.as_ref()?.config.clone());
    match vectors {
        Some(vectors_config::Config::Params(params)) => vec![(DEFAULT_VECTOR_NAME.to_owned(), params)],
        Some(vectors_config::Config::ParamsMap(map)) => map.map.into_iter().collect(),
        None => Vec::new(),
    }
}

pub(crate) fn hnsw_to_edge(diff: HnswConfigDiff) -> Result<HnswIndexConfig, Status> {
    from_json("the HNSW configuration", hnsw_json(diff)?)
}

pub(crate) fn optimizers_to_edge(diff: &OptimizersConfigDiff) -> EdgeOptimizersConfig {
    let number = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok());
    EdgeOptimizersConfig {
        deleted_threshold: diff.deleted_threshold,
        vacuum_min_vector_number: number(diff.vacuum_min_vector_number),
        default_segment_number: number(diff.default_segment_number),
        max_segment_size: number(diff.max_segment_size),
        indexing_threshold: number(diff.indexing_threshold),
        prevent_unoptimized: None,
    }
}

#[allow(deprecated)] // clients before 1.19 say `on_disk`, not `memory`
fn vector_json(vector: VectorParams, collection: HnswConfigDiff) -> Result<Json, Status> {
    if vector.size == 0 {
        return Err(Status::invalid_argument("a vector has no size"));
    }
    let hnsw = vector.hnsw_config.map(|own| hnsw_json(hnsw_after(collection, own))).transpose()?;
    let distance = match vector.distance() {
        Distance::Cosine => "Cosine",
        Distance::Euclid => "Euclid",
        Distance::Dot => "Dot",
        Distance::Manhattan => "Manhattan",
        Distance::UnknownDistance => return Err(Status::invalid_argument("a vector has no distance")),
    };
    Ok(object([
        ("size", Some(json!(vector.size))),
        ("distance", Some(json!(distance))),
        ("hnsw_config", hnsw),
        ("quantization_config", vector.quantization_config.map(quantisation::to_json).transpose()?.flatten()),
        ("on_disk", vector.on_disk.map(Json::Bool)),
        ("memory", memory_json(vector.memory)),
        ("datatype", vector.datatype.map(datatype_json).transpose()?.flatten()),
        ("multivector_config", vector.multivector_config.map(|_| json!({"comparator": "max_sim"}))),
    ]))
}

fn datatype_json(datatype: i32) -> Result<Option<Json>, Status> {
    match Datatype::try_from(datatype) {
        Ok(Datatype::Default) => Ok(None),
        Ok(Datatype::Float32) => Ok(Some(json!("float32"))),
        Ok(Datatype::Float16) => Ok(Some(json!("float16"))),
        Ok(Datatype::Uint8) => Ok(Some(json!("uint8"))),
        _ => Err(Status::unimplemented("vectors of that datatype")),
    }
}

#[allow(deprecated)] // clients before 1.19 say `on_disk`, not `memory`
fn sparse_json(vector: SparseVectorParams) -> Json {
    let idf = vector.modifier == Some(Modifier::Idf as i32);
    let index = vector.index.unwrap_or_default();
    object([
        ("modifier", idf.then(|| json!("idf"))),
        ("full_scan_threshold", index.full_scan_threshold.map(|threshold| json!(threshold))),
        ("on_disk", index.on_disk.map(Json::Bool)),
        ("memory", memory_json(index.memory)),
    ])
}

/// Fills the gaps of a partial HNSW configuration with the defaults, because edge requires a
/// complete one.
#[allow(deprecated)] // clients before 1.19 say `on_disk`, not `memory`
fn hnsw_json(diff: HnswConfigDiff) -> Result<Json, Status> {
    let whole = serde_json::to_value(HnswIndexConfig::default());
    let mut whole = whole.map_err(|error| Status::internal(format!("the HNSW defaults: {error}")))?;
    let parts = object([
        ("m", diff.m.map(|m| json!(m))),
        ("ef_construct", diff.ef_construct.map(|ef| json!(ef))),
        ("full_scan_threshold", diff.full_scan_threshold.map(|threshold| json!(threshold))),
        ("max_indexing_threads", diff.max_indexing_threads.map(|threads| json!(threads))),
        ("on_disk", diff.on_disk.map(Json::Bool)),
        ("payload_m", diff.payload_m.map(|m| json!(m))),
        ("inline_storage", diff.inline_storage.map(Json::Bool)),
        ("memory", memory_json(diff.memory)),
    ]);
    if let (Json::Object(whole), Json::Object(parts)) = (&mut whole, parts) {
        whole.extend(parts);
    }
    Ok(whole)
}

fn wal_json(wal: &WalConfigDiff) -> Json {
    let megabytes = wal.wal_capacity_mb.unwrap_or(32).clamp(1, 1024);
    json!({
        "segment_capacity": megabytes * 1024 * 1024,
        "segment_queue_len": wal.wal_segments_ahead.unwrap_or(0),
        "retain_closed": wal.wal_retain_closed.unwrap_or(1).max(1),
    })
}
