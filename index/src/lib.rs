//! The prompt index: a collection of prompts with their MiniLM and CLIP text vectors, reached over Qdrant's gRPC.
//!
//! [`PromptIndex`] is the one client of the collection; it speaks to a Qdrant server and to the embedded endpoint
//! alike. With the feature `embedded`, [`embedded::EmbeddedIndex`] serves that same gRPC API over qdrant-edge in
//! this process. This crate knows nothing of Kafka and of networks: vectors come in and go out.

mod client;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
mod layout;
mod payload;
mod point;
mod query;

pub use client::{ConnectOptions, Ensured, IndexInfo, IndexState, PromptIndex};
pub use error::IndexError;
pub use layout::{ALIAS, Layout, MINILM_DIM, Quantisation, Space};
pub use point::{Hit, PromptPoint};
pub use query::{Filter, Query, Target};
pub use uuid::Uuid;
