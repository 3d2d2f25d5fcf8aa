//! The flags of `unprompt generate`.

use std::path::PathBuf;

use clap::Args;
use unprompt_jobs::generation::Part;

use super::ReadCorpus;

#[derive(Args, Clone, Debug)]
#[command(mut_arg("sources", |sources| sources.long("from").value_name("SOURCE").num_args(1)))]
pub struct Generate {
    #[command(flatten)]
    pub reading: ReadCorpus,
    /// Pictures of each prompt (default: one for each of its own seeds, or one if it has none)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: Option<u64>,
    /// Use the seeds N, N + 1, … for every prompt (default: fresh seeds for every prompt and run)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub first_seed: Option<i64>,
    /// Write PNG files and their metadata.jsonl to this folder instead of publishing to images.v1
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write parquet files to --out, with --rows pictures each
    #[arg(long, requires = "out")]
    pub parquet: bool,
    /// Pictures in a parquet file; a file may hold up to one batch of the network more
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Draw only part K of N of the prompts, to share the work among N workers
    #[arg(long, value_name = "K/N")]
    pub part: Option<Part>,
}
