//! The prompt index under load: loads vectors, then measures searches over gRPC and in process.
//!
//! Each step is a separate process, so that its memory is its own, and prints one JSON object.
//! `benchmarks/index` runs the steps and the peers.

mod inside;
mod load;
mod memory;
mod search;
mod writes;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use unprompt_benchmarks::vectors::{Mixture, QUERIES, Rows, Vectors};
use unprompt_index::{Layout, Profile, Space};
use unprompt_jobs::Progress;
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_stream::config::{Log, LogFormat};

/// Answers per search, slightly fewer than the predictor requests.
pub const K: usize = 100;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Create the missing vectors
    Vectors(Make),
    /// Fill a new collection and build its graph
    Load(On),
    /// Search over gRPC, as services do
    Search(On),
    /// Write a new collection as the indexer does, and count its prompts
    Writes(On),
    /// Search qdrant-edge in this process, without gRPC, and without payloads and vectors in the
    /// answers
    Inside(On),
}

/// Selects the vectors.
#[derive(Args, Debug)]
pub struct Of {
    /// The folder of the vectors
    #[arg(long)]
    vectors: PathBuf,
    /// The number of vectors
    #[arg(long)]
    count: usize,
}

/// Selects the vectors to create, and how.
#[derive(Args, Debug)]
pub struct Make {
    #[command(flatten)]
    of: Of,
    /// A folder with vectors: the first ones are copied, all others are mixtures of them
    #[arg(long, requires = "embedded")]
    mix_from: Option<PathBuf>,
    /// The number of vectors to copy
    #[arg(long, requires = "mix_from")]
    embedded: Option<usize>,
}

/// Selects the collection.
#[derive(Args, Debug)]
pub struct On {
    #[command(flatten)]
    of: Of,
    /// The folder of the index
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value = "balanced")]
    profile: Profile,
    /// The number of queries
    #[arg(long, default_value_t = 1_000)]
    queries: usize,
}

impl On {
    pub fn layout(&self) -> Layout {
        let cone = unprompt_benchmarks::cone::CLIP_DIM;
        Layout::new("cone@1", cone, "all-MiniLM-L6-v2@bench").profile(self.profile)
    }

    pub fn vectors(&self) -> Vectors {
        Vectors::of(&self.of.vectors)
    }

    /// The correct answers [queries][100] as row numbers, which the peers' script found by
    /// comparison with every vector.
    pub fn truth(&self, space: Space) -> anyhow::Result<Vec<Vec<u32>>> {
        let name = format!("truth-{}-{}.u32", space.name(), self.of.count);
        let bytes = std::fs::read(self.of.vectors.join(name))?;
        let numbers: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect();
        Ok(numbers.chunks_exact(K).map(<[u32]>::to_vec).collect())
    }

    pub fn queries(&self, space: Space) -> anyhow::Result<Vec<Vec<f32>>> {
        self.kept_queries(space).read(0, self.queries)
    }

    /// Different queries for the warm-up of a step.
    pub fn warm_up(&self, space: Space) -> anyhow::Result<Vec<Vec<f32>>> {
        self.kept_queries(space).read(self.queries, QUERIES.saturating_sub(self.queries))
    }

    fn kept_queries(&self, space: Space) -> Rows {
        let vectors = self.vectors();
        if space == Space::Clip { vectors.clip_queries } else { vectors.minilm_queries }
    }
}

fn main() -> anyhow::Result<()> {
    let filter = "warn,unprompt_models=info,unprompt_jobs::progress=info".into();
    unprompt_stream::telemetry::init(&Log { format: LogFormat::Text, filter })?;
    let answer = match Cli::parse().step {
        Step::Vectors(make) => vectors(&make)?,
        Step::Load(on) => runtime()?.block_on(load::run(&on))?,
        Step::Search(on) => runtime()?.block_on(search::run(&on))?,
        Step::Writes(on) => runtime()?.block_on(writes::run(&on))?,
        Step::Inside(on) => inside::run(&on)?,
    };
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn vectors(make: &Make) -> anyhow::Result<serde_json::Value> {
    let Of { vectors: folder, count } = &make.of;
    let progress = Progress::new("making vectors", Some(*count as u64));
    let set = |done| progress.set(done as u64);
    if let (Some(from), Some(embedded)) = (&make.mix_from, make.embedded) {
        Vectors::fill_mixed(folder, &Mixture::of(from, embedded)?, *count, set)?;
    } else {
        let load = || Ok(MiniLm::load(&unprompt_benchmarks::minilm(), Engine::Auto)?);
        Vectors::fill(folder, *count, load, set)?;
    }
    progress.finish();
    Ok(serde_json::json!({"count": count}))
}

/// A percentile of sorted times, in milliseconds.
pub fn percentile_ms(times: &[Duration], part: f64) -> f64 {
    times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3
}

/// The fraction of the correct answers that was found.
pub fn recall(truth: &[Vec<u32>], found: &[Vec<u32>]) -> f64 {
    let hits =
        truth.iter().zip(found).map(|(right, found)| found.iter().filter(|id| right.contains(id)).count());
    hits.sum::<usize>() as f64 / truth.iter().map(Vec::len).sum::<usize>() as f64
}
