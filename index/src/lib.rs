//! The prompt index: a collection of prompts with their MiniLM and CLIP text vectors, reached over
//! Qdrant's gRPC API.
//!
//! [`PromptIndex`] is the only client of the collection. It speaks to a Qdrant server and to the
//! embedded endpoint alike. This crate must not know Kafka or neural networks: it takes vectors and
//! returns vectors.

mod chunks;
mod client;
mod error;
mod layout;
mod payload;
mod point;
mod profile;
mod query;
mod snapshot_file;

pub use client::{
    ConnectOptions, Endpoint, Ensured, FieldIndex, IndexInfo, IndexState, IndexStats, PromptIndex, RecallAt,
    RecallOptions, Restored, SnapshotInfo, SourceCount,
};
pub use error::IndexError;
pub use layout::{ALIAS, Layout, MINILM_DIM, Space};
pub use point::{Hit, PromptPoint, Version};
pub use profile::Profile;
pub use query::{
    Diversity, Encode, Filter, MAX_LIMIT, MAX_LIMIT_WITH_VECTORS, MAX_REACH, NearDuplicate, Picture, Query,
    SearchRequest, SearchTarget, Target, resolve_batch, time_ms,
};
pub use snapshot_file::SnapshotReader;
pub use tonic::Code;
pub use uuid::Uuid;
