//! How the collection is laid out: its name, its vectors, its payload indexes.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant::{
    CreateCollection, CreateCollectionBuilder, Distance, HnswConfigDiffBuilder, QuantizationType,
    ScalarQuantizationBuilder, Value, VectorParamsBuilder, VectorsConfigBuilder,
};

/// The alias that readers and writers use.
pub const ALIAS: &str = "prompts";
/// The length of an all-MiniLM-L6-v2 sentence embedding.
pub const MINILM_DIM: usize = 384;

/// A named vector of the collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// The text tower of the image encoder: what an image vector is compared with.
    Clip,
    /// all-MiniLM-L6-v2's sentence embedding.
    MiniLm,
}

impl Space {
    /// The vector's name in the collection.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::MiniLm => "minilm",
        }
    }
}

/// How search stores the vectors it walks over; answers are always rescored with the originals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantisation {
    /// One byte a dimension: a quarter of the memory.
    #[default]
    Int8,
    /// The original f32.
    None,
}

/// What a collection must look like for one pair of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The image encoder as `name@revision`; a collection serves one revision.
    pub encoder: String,
    /// The length of the encoder's joint image and text space.
    pub clip_dim: usize,
    /// The sentence encoder as `name@revision`.
    pub minilm: String,
    pub quantisation: Quantisation,
    /// HNSW's edges a node.
    pub hnsw_m: u64,
    /// HNSW's candidate list while building.
    pub hnsw_ef_construct: u64,
    /// Shards of the collection on a cluster; the server's default when none.
    pub shards: Option<u32>,
    /// Copies of each shard on a cluster; the server's default when none.
    pub replicas: Option<u32>,
}

impl Layout {
    /// The usual layout: int8 with rescoring, HNSW with 16 edges.
    pub fn new(encoder: impl Into<String>, clip_dim: usize, minilm: impl Into<String>) -> Self {
        Self {
            encoder: encoder.into(),
            clip_dim,
            minilm: minilm.into(),
            quantisation: Quantisation::default(),
            hnsw_m: 16,
            hnsw_ef_construct: 128,
            shards: None,
            replicas: None,
        }
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
            let params = VectorParamsBuilder::new(self.dim(space) as u64, Distance::Cosine);
            vectors.add_named_vector_params(space.name(), params);
        }
        let hnsw = HnswConfigDiffBuilder::default().m(self.hnsw_m).ef_construct(self.hnsw_ef_construct);
        let mut create = CreateCollectionBuilder::new(collection).vectors_config(vectors).hnsw_config(hnsw);
        if self.quantisation == Quantisation::Int8 {
            let int8 =
                ScalarQuantizationBuilder::default().r#type(QuantizationType::Int8.into()).quantile(0.99);
            create = create.quantization_config(int8.always_ram(true));
        }
        let mut create = create.build();
        create.metadata = self.metadata();
        create.shard_number = self.shards;
        create.replication_factor = self.replicas;
        create
    }

    fn metadata(&self) -> HashMap<String, Value> {
        let mut metadata = Payload::new();
        metadata.insert(ENCODER, self.encoder.as_str());
        metadata.insert(MINILM, self.minilm.as_str());
        metadata.into()
    }
}

/// Where a collection's metadata keeps the image encoder.
pub(crate) const ENCODER: &str = "unprompt_encoder";
/// Where a collection's metadata keeps the sentence encoder.
pub(crate) const MINILM: &str = "unprompt_minilm";

/// Lower-case letters, digits and single hyphens.
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
