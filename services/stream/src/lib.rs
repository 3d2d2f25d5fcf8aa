//! Runs a stage on Kafka: batching, delivery, dead letters, configuration, telemetry and health.
//!
//! It knows topics and bytes; it must not know what a record means, any neural
//! network, or the index.

mod admin_requests;
mod batcher;
mod clock_watch;
pub mod config;
mod connection;
mod consumer;
pub mod data_dir;
mod dead_letter;
mod error;
mod events;
mod flood;
pub mod health;
mod in_flight;
mod kafka;
mod lost_offsets;
mod observer;
mod offsets;
mod parsed_batch;
pub mod pass_through;
mod pauses;
pub mod printable;
mod producer;
pub mod properties;
mod publisher;
mod reader;
mod record;
mod records;
mod refusal;
mod registry;
mod retry;
mod runner;
pub mod service;
mod signals;
mod source_time;
mod stage;
mod table;
pub mod telemetry;
mod topic_admin;
mod topic_ids;
mod traces;
pub mod waiting;

pub use config::{KafkaConfig, Profile, RunnerConfig, Secret};
pub use dead_letter::VALUE_OMITTED_HEADER;
pub use error::StreamError;
pub use events::now_ms;
pub use health::Health;
pub use observer::{GroupMember, GroupState, Observed, Observer, Reads, TopicEnds};
pub use parsed_batch::{Parsed, ParsedBatch};
pub use producer::Position;
pub use publisher::Publisher;
pub use reader::{Present, ReadSummary, Start, Tail, read_to_end};
pub use record::{InputRecord, OutputRecord};
pub use records::{TableChange, read_changes, read_records};
pub use refusal::Refusal;
pub use registry::{Compatibility, Registered, SchemaRegistry};
pub use retry::Backoff;
pub use runner::{RunSummary, run_stage};
pub use service::{Needs, Service, StageWiring};
pub use signals::Signals;
pub use stage::{BatchError, Outcome, Rejection, Stage};
pub use table::TableReader;
pub use topic_admin::{
    TopicState, committed_offsets, delete_records, ensure_topics, list_topics, offsets_retention,
    try_transactions,
};
pub use traces::Traces;
