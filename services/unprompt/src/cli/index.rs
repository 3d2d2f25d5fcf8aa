//! The commands that look after the prompt index, and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Export, ReadCorpus};

#[derive(Debug, Subcommand)]
pub enum Index {
    /// Index prompts from files: read, cleaned, embedded here and written in bulk, then the graph; for millions of them
    ///
    /// Past the topics: nothing is published, and whoever reads prompt-embeddings.v1 does not hear of them. Stopped or killed, the same
    /// command resumes where it stopped.
    Build(IndexBuild),
    /// Show how the collection is and what it is made of
    Stats,
    /// Have the graph built, and wait for it; ends a bulk load
    Optimize(IndexOptimize),
    /// Measure recall and speed of searches against exact search
    Recall(IndexRecall),
    /// Copy all prompts with their vectors into a file (parquet)
    Snapshot {
        /// The file; a folder gets one named after the collection and the time
        #[arg(value_name = "FILE|DIR")]
        to: PathBuf,
    },
    /// Write all prompts, or those that pass a filter, as a table
    Export(Export),
    /// Bring the prompts of a snapshot back; what is there already is merged or passed over
    Restore(IndexRestore),
    /// Delete the collection with all its prompts
    Drop {
        /// Yes, for good
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub struct IndexOptimize {
    /// First give the collection another profile: balanced, small-memory or fastest
    #[arg(long)]
    pub profile: Option<unprompt_index::Profile>,
}

#[derive(Args, Debug)]
pub struct IndexRecall {
    /// Prompts of the collection to ask with
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub queries: u32,
    /// Neighbours to ask for
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub k: u32,
    /// HNSW's candidate lists to try; without it what the collection's profile says
    #[arg(long, value_delimiter = ',', value_name = "A,B,C")]
    pub ef: Vec<u64>,
    /// The vectors to compare
    #[arg(long, value_enum, default_value_t = SearchSpace::Clip)]
    pub space: SearchSpace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SearchSpace {
    Clip,
    Minilm,
}

impl SearchSpace {
    /// As the collection and JSON name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Minilm => "minilm",
        }
    }
}

#[derive(Args, Debug)]
pub struct IndexRestore {
    /// What `index snapshot` wrote
    pub file: PathBuf,
    /// The profile of the collection, if it is to be made; without it that of the snapshot
    #[arg(long)]
    pub profile: Option<unprompt_index::Profile>,
}

#[derive(Args, Clone, Debug)]
pub struct IndexBuild {
    #[command(flatten)]
    pub reading: ReadCorpus,
    /// Drop prompts whose MiniLM vector is this near (a cosine of 0.8 to 1, such as 0.95) to that of one kept before, of those built
    /// together; approximate: a few are missed, none is dropped wrongly
    #[arg(long, value_name = "COSINE")]
    pub near_duplicate: Option<f32>,
    /// How a collection that is made is laid out: balanced, small-memory or fastest; without it as `[index] profile` says
    #[arg(long)]
    pub profile: Option<unprompt_index::Profile>,
    /// Leave the graph to a later build or to `unprompt index optimize`
    #[arg(long)]
    pub no_graph: bool,
}
