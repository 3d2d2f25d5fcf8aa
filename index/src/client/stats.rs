//! Statistics of the collection for its operators.

use qdrant_client::qdrant::quantization_config::Quantization;
use qdrant_client::qdrant::{
    CollectionInfo, FacetCounts, PayloadSchemaType, QuantizationConfig, TurboQuantBitSize, facet_value,
    vectors_config,
};

use super::ensure::index_info;
use super::{IndexInfo, PromptIndex};
use crate::{IndexError, payload};

/// The maximum number of sources to count, largest first.
const SOURCES: u64 = 50;

/// The state of the collection and its layout.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexStats {
    pub info: IndexInfo,
    /// Its named vectors and their lengths, sorted by name.
    pub vectors: Vec<(String, u64)>,
    /// The compression of the vectors that search compares instead of the originals.
    pub quantisation: String,
    pub hnsw_m: u64,
    pub hnsw_ef_construct: u64,
    pub fields: Vec<FieldIndex>,
    /// The largest sources.
    pub sources: Vec<SourceCount>,
}

/// An indexed field of the payload.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldIndex {
    pub field: String,
    pub kind: String,
    /// Prompts that have the field.
    pub points: u64,
}

/// The number of prompts seen in a source; a prompt may be in several.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SourceCount {
    pub source: String,
    pub prompts: u64,
}

impl PromptIndex {
    /// Reads the state and layout of the collection, with the sizes of its sources.
    pub async fn stats(&self) -> Result<IndexStats, IndexError> {
        let collection = self.collection().await?;
        let described = self.collection_info(&collection).await?;
        let sources = self.count_sources(&collection).await?;
        Ok(stats(collection, described, sources))
    }

    /// Deletes the collection, its aliases and all its prompts permanently, and the remembered
    /// deletions with the collection behind the alias. Returns false if there was none.
    pub async fn drop_collection(&self) -> Result<bool, IndexError> {
        let collection = self.collection().await?;
        let deleted = self.client.delete_collection(&collection).await;
        let deleted = deleted.map_err(|e| self.error("delete the collection", e))?.result;
        if *self.target == self.options.alias {
            self.drop_deletions().await?;
        }
        Ok(deleted)
    }

    async fn count_sources(&self, collection: &str) -> Result<Vec<SourceCount>, IndexError> {
        let request = FacetCounts {
            collection_name: collection.to_owned(),
            key: payload::SOURCES.to_owned(),
            limit: Some(SOURCES),
            exact: Some(true),
            ..Default::default()
        };
        let answer = self.client.facet(request).await.map_err(|e| self.error("count the sources", e))?;
        let count = |hit: qdrant_client::qdrant::FacetHit| match hit.value?.variant? {
            facet_value::Variant::StringValue(source) => Some(SourceCount { source, prompts: hit.count }),
            _ => None,
        };
        Ok(answer.hits.into_iter().filter_map(count).collect())
    }
}

fn stats(collection: String, described: CollectionInfo, sources: Vec<SourceCount>) -> IndexStats {
    let info = index_info(collection, &described);
    let config = described.config.unwrap_or_default();
    let hnsw = config.hnsw_config.unwrap_or_default();
    let mut fields: Vec<_> = described.payload_schema.into_iter().map(field_index).collect();
    fields.sort_by(|a, b| a.field.cmp(&b.field));
    let params = config.params.unwrap_or_default().vectors_config.and_then(|vectors| vectors.config);
    let mut vectors = match params {
        Some(vectors_config::Config::ParamsMap(map)) => {
            map.map.into_iter().map(|(name, params)| (name, params.size)).collect()
        }
        Some(vectors_config::Config::Params(params)) => vec![(String::new(), params.size)],
        None => Vec::new(),
    };
    vectors.sort_unstable();
    IndexStats {
        info,
        vectors,
        quantisation: quantisation(config.quantization_config),
        hnsw_m: hnsw.m.unwrap_or_default(),
        hnsw_ef_construct: hnsw.ef_construct.unwrap_or_default(),
        fields,
        sources,
    }
}

fn field_index((field, schema): (String, qdrant_client::qdrant::PayloadSchemaInfo)) -> FieldIndex {
    let kind = match schema.data_type() {
        PayloadSchemaType::Keyword => "keyword",
        PayloadSchemaType::Integer => "integer",
        PayloadSchemaType::Text => "words",
        other => other.as_str_name(),
    };
    FieldIndex { field, kind: kind.to_lowercase(), points: schema.points.unwrap_or_default() }
}

fn quantisation(config: Option<QuantizationConfig>) -> String {
    match config.and_then(|config| config.quantization) {
        Some(Quantization::Scalar(_)) => "int8".into(),
        Some(Quantization::Product(_)) => "product".into(),
        Some(Quantization::Binary(_)) => "binary".into(),
        Some(Quantization::Turboquant(turbo)) => {
            let bits = match turbo.bits.map(TurboQuantBitSize::try_from) {
                Some(Ok(TurboQuantBitSize::Bits1)) => "1",
                Some(Ok(TurboQuantBitSize::Bits15)) => "1.5",
                Some(Ok(TurboQuantBitSize::Bits2)) => "2",
                Some(Ok(TurboQuantBitSize::Bits8)) => "8",
                _ => "4",
            };
            format!("TurboQuant, {bits} bits")
        }
        None => "none".into(),
    }
}
