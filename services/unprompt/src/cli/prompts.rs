//! The commands that bring prompts in, and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Prompts {
    /// Publish prompts from files of many kinds, cleaned, to prompts.v1
    ///
    /// Reads DiffusionDB's metadata.parquet, COYO-700M's parquet, COCO's and VizWiz' captions, Lexica's answers, and any parquet, CSV,
    /// TSV, JSON lines, JSON or text; packed with gzip or zstd or not. Empty texts and exact duplicates within the run are always
    /// dropped unless --keep-duplicates is given. Stopped by Ctrl-C, the same command resumes where it stopped. Near duplicates
    /// are told by vectors, which a topic of prompts does not have: see `unprompt index build --near-duplicate`.
    Import(Import),
    /// Print prompts of the tiny world's grammar as JSON lines, or write a table of them
    Sample(Sample),
}

/// What is read, and what of it is dropped.
#[derive(Args, Clone, Debug)]
pub struct ReadCorpus {
    /// Files, folders, globs, s3://bucket/key-or-prefix, http(s):// addresses of files, or - for standard input
    #[arg(required = true)]
    pub sources: Vec<String>,
    /// What all of them are, where name and content do not tell: diffusion-db, coco-captions, coyo, lexica, parquet, csv, tsv, jsonl,
    /// json or text
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Read as JSON lines, like --format jsonl
    #[arg(long, conflicts_with = "format")]
    pub jsonl: bool,
    /// Which column or key holds what (repeatable): text, source, seeds, created_at, similarity, aesthetic or nsfw; without it text,
    /// prompt or caption is the text
    #[arg(long, value_name = "MEANING=COLUMN")]
    pub column: Vec<String>,
    /// Columns kept as attributes, separated by commas; without it those that the data set's schema suggests
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub attributes: Option<Vec<String>>,
    /// CSV and TSV have no header: columns are called 1, 2, …
    #[arg(long)]
    pub no_header: bool,
    /// Source of prompts that name none; without it the data set's name or the file's
    #[arg(long)]
    pub source: Option<String>,
    /// Drop texts of fewer characters
    #[arg(long, value_name = "N")]
    pub min_chars: Option<usize>,
    /// Drop texts of more characters
    #[arg(long, value_name = "N")]
    pub max_chars: Option<usize>,
    /// Drop texts of fewer MiniLM tokens
    #[arg(long, value_name = "N")]
    pub min_tokens: Option<usize>,
    /// Drop texts of more MiniLM tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Keep only texts in this language, such as en, and those too short to tell (repeatable)
    #[arg(long, value_name = "CODE")]
    pub language: Vec<String>,
    /// Drop rows whose picture and text are less similar (COYO's clip_similarity_vitb32); rows without the score stay
    #[arg(long, value_name = "SCORE")]
    pub min_similarity: Option<f64>,
    /// Drop rows with a lower aesthetic score
    #[arg(long, value_name = "SCORE")]
    pub min_aesthetic: Option<f64>,
    /// Drop rows with a higher NSFW score
    #[arg(long, value_name = "SCORE")]
    pub max_nsfw: Option<f64>,
    /// Take texts again that were there before, so that their sources are united
    #[arg(long)]
    pub keep_duplicates: bool,
    /// Begin again instead of resuming an earlier run
    #[arg(long)]
    pub restart: bool,
    /// Write what was dropped and why (JSON)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct Import {
    #[command(flatten)]
    pub reading: ReadCorpus,
    /// Read, clean and report, but publish nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
pub struct Sample {
    /// Prompts to print
    #[arg(long, short = 'n', default_value_t = 10)]
    pub count: usize,
    /// The sequence to take them from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only prompts that did not come before; up to half of those that the grammar can say
    #[arg(long)]
    pub distinct: bool,
    /// Give each prompt this many seeds, so that pictures are generated for it
    #[arg(long, default_value_t = 0)]
    pub seeds: usize,
    /// Write a table instead: .parquet, .csv, .tsv or .jsonl, the last three also with .gz or .zst
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
