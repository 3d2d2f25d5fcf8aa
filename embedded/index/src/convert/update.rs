//! Changes to a collection's configuration. A change keeps the settings that it does not name.

use std::collections::HashMap;

use qdrant_client::qdrant::{
    CollectionConfig, CollectionParams, CollectionParamsDiff, HnswConfigDiff, OptimizersConfigDiff,
    UpdateCollection, VectorParams, VectorParamsDiff, VectorsConfigDiff, vectors_config, vectors_config_diff,
};
use qdrant_edge::DEFAULT_VECTOR_NAME;
use tonic::Status;

use super::quantisation;

/// Returns `config` with `update` applied.
pub(crate) fn apply(
    mut config: CollectionConfig,
    update: UpdateCollection,
) -> Result<CollectionConfig, Status> {
    let refuse = |what: &str| Err(Status::unimplemented(format!("the embedded index cannot change {what}")));
    if update.sparse_vectors_config.is_some() {
        return refuse("sparse_vectors_config");
    }
    if update.strict_mode_config.is_some() {
        return refuse("strict_mode_config");
    }
    if let Some(hnsw) = update.hnsw_config {
        config.hnsw_config = Some(hnsw_after(config.hnsw_config.unwrap_or_default(), hnsw));
    }
    if let Some(optimizers) = update.optimizers_config {
        config.optimizer_config =
            Some(optimizers_after(config.optimizer_config.unwrap_or_default(), optimizers));
    }
    if let Some(quantization) = update.quantization_config.map(quantisation::changed).transpose()?.flatten() {
        config.quantization_config = Some(quantization);
    }
    let params = config.params.get_or_insert_default();
    if let Some(diff) = update.params {
        change_params(params, diff)?;
    }
    if let Some(diff) = update.vectors_config {
        change_vectors(params, diff)?;
    }
    config.metadata.extend(update.metadata);
    Ok(config)
}

#[allow(deprecated)] // clients before 1.19 say `on_disk_payload`, not `payload.memory`
fn change_params(params: &mut CollectionParams, diff: CollectionParamsDiff) -> Result<(), Status> {
    let cluster = [diff.replication_factor, diff.write_consistency_factor, diff.read_fan_out_factor];
    if cluster.iter().any(Option::is_some) || diff.read_fan_out_delay_ms.is_some() {
        return Err(Status::unimplemented(
            "the embedded index has no replicas; only payload and id_tracker change",
        ));
    }
    params.on_disk_payload = diff.on_disk_payload.unwrap_or(params.on_disk_payload);
    params.payload = diff.payload.or(params.payload);
    params.id_tracker = diff.id_tracker.or(params.id_tracker);
    Ok(())
}

fn change_vectors(params: &mut CollectionParams, diff: VectorsConfigDiff) -> Result<(), Status> {
    let diffs = match diff.config {
        Some(vectors_config_diff::Config::Params(one)) => {
            HashMap::from([(DEFAULT_VECTOR_NAME.to_owned(), one)])
        }
        Some(vectors_config_diff::Config::ParamsMap(map)) => map.map,
        None => return Ok(()),
    };
    for (name, diff) in diffs {
        let config = params.vectors_config.as_mut().and_then(|config| config.config.as_mut());
        let vector = match config {
            Some(vectors_config::Config::Params(one)) if name == DEFAULT_VECTOR_NAME => Some(one),
            Some(vectors_config::Config::ParamsMap(map)) => map.map.get_mut(&name),
            _ => None,
        };
        let unknown =
            || Status::invalid_argument(format!("Wrong input: Not existing vector name error: {name}"));
        change_vector(vector.ok_or_else(unknown)?, diff)?;
    }
    Ok(())
}

#[allow(deprecated)] // clients before 1.19 say `on_disk`, not `memory`
fn change_vector(vector: &mut VectorParams, diff: VectorParamsDiff) -> Result<(), Status> {
    if let Some(hnsw) = diff.hnsw_config {
        vector.hnsw_config = Some(hnsw_after(vector.hnsw_config.unwrap_or_default(), hnsw));
    }
    let quantization = diff.quantization_config.map(quantisation::changed).transpose()?.flatten();
    vector.quantization_config = quantization.or(vector.quantization_config);
    vector.on_disk = diff.on_disk.or(vector.on_disk);
    vector.memory = diff.memory.or(vector.memory);
    Ok(())
}

/// Returns `base` with the fields that `update` sets.
#[allow(deprecated)] // clients before 1.19 say `on_disk`, not `memory`
pub(super) fn hnsw_after(base: HnswConfigDiff, update: HnswConfigDiff) -> HnswConfigDiff {
    HnswConfigDiff {
        m: update.m.or(base.m),
        ef_construct: update.ef_construct.or(base.ef_construct),
        full_scan_threshold: update.full_scan_threshold.or(base.full_scan_threshold),
        max_indexing_threads: update.max_indexing_threads.or(base.max_indexing_threads),
        on_disk: update.on_disk.or(base.on_disk),
        payload_m: update.payload_m.or(base.payload_m),
        inline_storage: update.inline_storage.or(base.inline_storage),
        memory: update.memory.or(base.memory),
    }
}

fn optimizers_after(base: OptimizersConfigDiff, update: OptimizersConfigDiff) -> OptimizersConfigDiff {
    OptimizersConfigDiff {
        deleted_threshold: update.deleted_threshold.or(base.deleted_threshold),
        vacuum_min_vector_number: update.vacuum_min_vector_number.or(base.vacuum_min_vector_number),
        default_segment_number: update.default_segment_number.or(base.default_segment_number),
        max_segment_size: update.max_segment_size.or(base.max_segment_size),
        memmap_threshold: update.memmap_threshold.or(base.memmap_threshold),
        indexing_threshold: update.indexing_threshold.or(base.indexing_threshold),
        ..base
    }
}
