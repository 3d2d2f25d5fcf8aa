//! The layout of the collection: its name, its vectors, its payload indexes.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant::{
    CreateCollection, CreateCollectionBuilder, Distance, OptimizersConfigDiffBuilder, PayloadStorageParams,
    QuantizationConfig, Value, VectorParamsBuilder, VectorsConfigBuilder,
};

use crate::Profile;

/// The alias that readers and writers use.
pub const ALIAS: &str = "prompts";
/// The length of an all-MiniLM-L6-v2 sentence embedding.
pub const MINILM_DIM: usize = 384;
/// The size of a segment's vectors, in KB, above which it is not merged with others: four million
/// vectors of 512 values. A search visits every segment, so a million prompts should be in one.
const MAX_SEGMENT_KB: u64 = 8_000_000;
/// The number of segments that merging aims at: one with the graph and one for new points.
const SEGMENTS: u64 = 2;
/// The size of a segment's vectors, in KB, above which a graph is built: five thousand vectors of
/// 512 values.
pub(crate) const INDEXING_THRESHOLD_KB: u64 = 10_000;

/// A named vector of the collection.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Space {
    /// The image encoder's text tower, whose vectors are comparable with image vectors.
    Clip,
    /// all-MiniLM-L6-v2's sentence embedding.
    MiniLm,
}

impl Space {
    /// The vector's name in the collection.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The layout of a collection for one pair of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The image encoder as `name@revision`; a collection serves one revision.
    pub encoder: String,
    /// The length of the encoder's joint image and text space.
    pub clip_dim: usize,
    /// The sentence encoder as `name@revision`.
    pub minilm: String,
    /// The data in memory and its compression.
    pub profile: Profile,
    /// HNSW's edges per node.
    pub hnsw_m: u64,
    /// The size of HNSW's candidate list while building.
    pub hnsw_ef_construct: u64,
    /// Shards of the collection on a cluster; `None` is the server's default.
    pub shards: Option<u32>,
    /// Copies of each shard on a cluster; `None` is the server's default.
    pub replicas: Option<u32>,
}

impl Layout {
    /// The default layout, with the profile `balanced`.
    pub fn new(encoder: impl Into<String>, clip_dim: usize, minilm: impl Into<String>) -> Self {
        Self {
            encoder: encoder.into(),
            clip_dim,
            minilm: minilm.into(),
            profile: Profile::default(),
            hnsw_m: Profile::default().hnsw_m(),
            hnsw_ef_construct: Profile::default().hnsw_ef_construct(),
            shards: None,
            replicas: None,
        }
    }

    /// The same layout with the settings of `profile`.
    pub fn profile(self, profile: Profile) -> Self {
        let (hnsw_m, hnsw_ef_construct) = (profile.hnsw_m(), profile.hnsw_ef_construct());
        Self { profile, hnsw_m, hnsw_ef_construct, ..self }
    }

    /// The collection's own name: `prompts-<slug of the encoder>-<revision>`.
    pub fn collection(&self, alias: &str) -> String {
        let (name, revision) = self.encoder.rsplit_once('@').unwrap_or((&self.encoder, "unversioned"));
        format!("{alias}-{}-{}", slug(name), slug(revision))
    }

    /// The length of the vectors of `space`.
    pub fn dim(&self, space: Space) -> usize {
        match space {
            Space::Clip => self.clip_dim,
            Space::MiniLm => MINILM_DIM,
        }
    }

    pub(crate) fn create(&self, collection: &str) -> CreateCollection {
        let mut vectors = VectorsConfigBuilder::default();
        for space in [Space::Clip, Space::MiniLm] {
            let params = VectorParamsBuilder::new(self.dim(space) as u64, Distance::Cosine)
                .memory(self.profile.originals());
            vectors.add_named_vector_params(space.name(), params);
        }
        let optimizers = OptimizersConfigDiffBuilder::default()
            .default_segment_number(SEGMENTS)
            .max_segment_size(MAX_SEGMENT_KB)
            .indexing_threshold(INDEXING_THRESHOLD_KB);
        let mut create = CreateCollectionBuilder::new(collection)
            .vectors_config(vectors)
            .hnsw_config(self.profile.hnsw(self.hnsw_m, self.hnsw_ef_construct))
            .optimizers_config(optimizers)
            .build();
        create.quantization_config =
            Some(QuantizationConfig { quantization: Some(self.profile.compression()) });
        create.payload = Some(PayloadStorageParams { memory: Some(self.profile.originals().into()) });
        create.metadata = self.metadata();
        create.shard_number = self.shards;
        create.replication_factor = self.replicas;
        create
    }

    fn metadata(&self) -> HashMap<String, Value> {
        let mut metadata = Payload::new();
        metadata.insert(ENCODER, self.encoder.as_str());
        metadata.insert(MINILM, self.minilm.as_str());
        metadata.insert(PROFILE, self.profile.name());
        metadata.into()
    }
}

/// The metadata key of a collection's image encoder.
pub(crate) const ENCODER: &str = "unprompt_encoder";
/// The metadata key of a collection's sentence encoder.
pub(crate) const MINILM: &str = "unprompt_minilm";
/// The metadata key of a collection's profile. A collection without it predates profiles and is
/// balanced.
pub(crate) const PROFILE: &str = "unprompt_profile";

/// Reduces text to lower-case letters, digits and single hyphens.
fn slug(text: &str) -> String {
    let lowered: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    lowered.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_named_after_its_encoder_and_revision() {
        let layout = Layout::new("openai/CLIP-ViT_B/32@0a1b2c", 512, "all-MiniLM-L6-v2@ffff");
        assert_eq!(layout.collection(ALIAS), "prompts-openai-clip-vit-b-32-0a1b2c");
    }

    #[test]
    fn an_encoder_without_a_revision_still_gets_a_name() {
        assert_eq!(Layout::new("tiny", 96, "m@1").collection("p"), "p-tiny-unversioned");
    }
}
