//! The command that draws pictures of many prompts, and its flags.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

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

/// One of several parts of the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u64,
    pub of: u64,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no part: write it like 2/8, from 1/8 to 8/8");
        let (number, of) = text.split_once('/').ok_or_else(wrong)?;
        let part =
            Self { number: number.parse().map_err(|_| wrong())?, of: of.parse().map_err(|_| wrong())? };
        if (1..=part.of).contains(&part.number) { Ok(part) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_from_one() {
        assert_eq!("2/8".parse(), Ok(Part { number: 2, of: 8 }));
        for wrong in ["0/8", "9/8", "2", "a/b", "1/0", "-1/3"] {
            assert!(wrong.parse::<Part>().unwrap_err().contains("2/8"), "{wrong}");
        }
    }
}
