//! The command that draws pictures of many prompts, and its flags.

use std::path::PathBuf;

use clap::Args;
use unprompt_jobs::generation::Part;

use super::ReadCorpus;

#[derive(Args, Clone, Debug)]
#[command(mut_arg("sources", |sources| sources.long("from").value_name("SOURCE").num_args(1)))]
pub struct Generate {
    #[command(flatten)]
    pub reading: ReadCorpus,
    /// Pictures of each prompt; without it as many as a prompt has seeds of its own, and one where it has none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: Option<u64>,
    /// Take the seeds N, N + 1, … for every prompt; without it fresh ones, other for every prompt and in every run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub first_seed: Option<i64>,
    /// Write PNG files and their metadata.jsonl here, instead of publishing to images.v1
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write parquet files to --out, of --rows pictures each
    #[arg(long, requires = "out")]
    pub parquet: bool,
    /// Pictures in a parquet file, and at most one pass of the network's more
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Draw only the K-th of N parts of the prompts: one for each of N workers
    #[arg(long, value_name = "K/N")]
    pub part: Option<Part>,
}
