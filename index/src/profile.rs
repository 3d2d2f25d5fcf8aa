//! Named trade-offs between memory, speed and recall: which parts of a collection are in memory,
//! how the vectors that search compares are compressed, and how many candidates a search requests
//! to compensate. Knows nothing of models and prompts.

use std::fmt;
use std::str::FromStr;

use qdrant_client::qdrant::quantization_config::Quantization;
use qdrant_client::qdrant::quantization_config_diff::Quantization as Change;
use qdrant_client::qdrant::{
    HnswConfigDiff, Memory, QuantizationType, ScalarQuantization, TurboQuantBitSize, TurboQuantization,
};

/// A trade-off between the memory of a collection's vectors and its recall and speed.
///
/// Every profile keeps the original f32 vectors, with which the best candidates are rescored. The
/// README has the measured figures.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Profile {
    /// One byte per dimension and the graph in memory; originals and payload on disk.
    #[default]
    Balanced,
    /// Two bits per dimension in memory; the graph, originals and payload on disk.
    SmallMemory,
    /// One byte per dimension and a denser graph in memory; the originals are cached there while
    /// there is room.
    Fastest,
}

impl Profile {
    /// All profiles, the default first.
    pub const ALL: [Self; 3] = [Self::Balanced, Self::SmallMemory, Self::Fastest];

    /// The name in configuration and metadata.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The number of candidates per answer that a search takes from the compressed vectors and
    /// rescores with the originals.
    pub fn oversampling(self) -> f64 {
        match self {
            Self::Balanced | Self::Fastest => 1.5,
            Self::SmallMemory => 3.0,
        }
    }

    /// The size of HNSW's candidate list while searching, if a query gives none.
    ///
    /// Chosen for more prompts than it was measured with: recall@100 was 0.990 to 1.000 among
    /// 200,000 (see the README).
    pub fn ef(self) -> u64 {
        match self {
            Self::Balanced | Self::SmallMemory => 400,
            Self::Fastest => 256,
        }
    }

    /// HNSW's edges per node.
    pub fn hnsw_m(self) -> u64 {
        match self {
            Self::Balanced | Self::SmallMemory => 16,
            Self::Fastest => 24,
        }
    }

    /// The size of HNSW's candidate list while building.
    pub fn hnsw_ef_construct(self) -> u64 {
        match self {
            Self::Balanced | Self::SmallMemory => 128,
            Self::Fastest => 200,
        }
    }

    /// The bytes per dimension that the compressed vectors keep in memory, without the graph.
    pub fn bytes_a_dimension(self) -> f64 {
        match self {
            Self::Balanced | Self::Fastest => 1.0,
            Self::SmallMemory => 0.25,
        }
    }

    /// A short description of the compression.
    pub fn quantisation(self) -> &'static str {
        match self {
            Self::Balanced | Self::Fastest => "int8, in memory",
            Self::SmallMemory => "TurboQuant, 2 bits, in memory",
        }
    }

    pub(crate) fn hnsw(self, m: u64, ef_construct: u64) -> HnswConfigDiff {
        let memory = match self {
            Self::SmallMemory => Memory::Cold,
            Self::Balanced | Self::Fastest => Memory::Pinned,
        };
        let memory = Some(memory.into());
        HnswConfigDiff { m: Some(m), ef_construct: Some(ef_construct), memory, ..Default::default() }
    }

    pub(crate) fn compression(self) -> Quantization {
        let memory = Some(Memory::Pinned.into());
        match self {
            Self::Balanced | Self::Fastest => Quantization::Scalar(ScalarQuantization {
                r#type: QuantizationType::Int8.into(),
                quantile: Some(0.99),
                memory,
                ..Default::default()
            }),
            Self::SmallMemory => Quantization::Turboquant(TurboQuantization {
                bits: Some(TurboQuantBitSize::Bits2.into()),
                memory,
                ..Default::default()
            }),
        }
    }

    /// The same compression as an update of an existing collection.
    pub(crate) fn change_of_compression(self) -> Change {
        match self.compression() {
            Quantization::Scalar(scalar) => Change::Scalar(scalar),
            Quantization::Product(product) => Change::Product(product),
            Quantization::Binary(binary) => Change::Binary(binary),
            Quantization::Turboquant(turbo) => Change::Turboquant(turbo),
        }
    }

    /// The storage of the original vectors.
    pub(crate) fn originals(self) -> Memory {
        match self {
            Self::Balanced | Self::SmallMemory => Memory::Cold,
            Self::Fastest => Memory::Cached,
        }
    }

    /// The storage of the keyword and time indexes; those of words and lengths are always on disk.
    pub(crate) fn field_indexes(self) -> Option<Memory> {
        match self {
            Self::SmallMemory => Some(Memory::Cold),
            Self::Balanced | Self::Fastest => None,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|profile| profile.name() == text);
        known.ok_or_else(|| format!("{text:?} is not a profile; choose balanced, small-memory or fastest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_round_trips_through_its_name() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.name());
        }
        assert!("huge".parse::<Profile>().unwrap_err().contains("small-memory"));
    }

    #[test]
    fn the_default_takes_at_most_1_2_bytes_per_dimension_and_small_memory_0_4() {
        assert_eq!(Profile::default(), Profile::Balanced);
        assert!(Profile::Balanced.bytes_a_dimension() <= 1.2);
        assert!(Profile::SmallMemory.bytes_a_dimension() <= 0.4);
    }
}
