//! The subcommands and flags of `unprompt index`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use unprompt_index::Space;

use super::{Export, ReadCorpus, named};

#[derive(Debug, Subcommand)]
pub enum Index {
    /// Index prompts from files in bulk, up to millions, and build the graph
    ///
    /// Reads, cleans and embeds the prompts in this process. Bypasses the topics: nothing is
    /// published, and readers of prompt-embeddings.v1 do not see these prompts. After Ctrl-C or a
    /// kill, the same command resumes where it stopped.
    Build(IndexBuild),
    /// Show the state and the contents of the collection
    Stats,
    /// Build the graph and wait for it; ends a bulk load
    Optimize(IndexOptimize),
    /// Measure recall and speed of searches against exact search
    Recall(IndexRecall),
    /// Copy all prompts with their vectors into a parquet file
    Snapshot {
        /// File to write; in a folder, the name is made of the collection and the time
        #[arg(value_name = "FILE|DIR")]
        to: PathBuf,
    },
    /// Export all prompts, or those that pass a filter, as a table
    Export(Export),
    /// Restore the prompts of a snapshot; those already there are merged or skipped
    Restore(IndexRestore),
    /// Delete the collection with all its prompts
    Drop {
        /// Confirm the deletion
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub struct IndexOptimize {
    /// Change the profile of the collection first: balanced, small-memory or fastest
    #[arg(long)]
    pub profile: Option<unprompt_index::Profile>,
}

#[derive(Args, Debug)]
pub struct IndexRecall {
    /// Number of prompts of the collection to use as queries
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub queries: u32,
    /// Number of neighbours of each query
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub k: u32,
    /// Sizes of HNSW's candidate list to try (default: the size of the collection's profile)
    #[arg(long, value_delimiter = ',', value_name = "A,B,C")]
    pub ef: Vec<u64>,
    /// Vectors to compare
    #[arg(long, default_value = Space::Clip.name(), value_parser = named::<Space>())]
    pub space: Space,
}

#[derive(Args, Debug)]
pub struct IndexRestore {
    /// Snapshot that `index snapshot` wrote
    pub file: PathBuf,
    /// Profile of the collection, if it is created (default: the profile of the snapshot)
    #[arg(long)]
    pub profile: Option<unprompt_index::Profile>,
}

#[derive(Args, Clone, Debug)]
pub struct IndexBuild {
    #[command(flatten)]
    pub reading: ReadCorpus,
    /// Drop prompts whose MiniLM vector is this near to that of a prompt that the build kept
    /// before: a cosine of 0.8 to 1, such as 0.95; approximate: misses a few, drops none wrongly
    #[arg(long, value_name = "COSINE")]
    pub near_duplicate: Option<f32>,
    /// Layout of the collection, if it is created: balanced, small-memory or fastest (default:
    /// [index] profile)
    #[arg(long)]
    pub profile: Option<unprompt_index::Profile>,
    /// Leave the graph to a later build or to `unprompt index optimize`
    #[arg(long)]
    pub no_graph: bool,
}
