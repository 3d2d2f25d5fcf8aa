//! The subcommands and flags of `unprompt prompts`, and the flags that describe a corpus.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Prompts {
    /// Import prompts from files of many kinds, cleaned, to prompts.v1
    ///
    /// Reads DiffusionDB's metadata.parquet, COYO-700M's parquet, captions of COCO and VizWiz,
    /// responses of Lexica, and any parquet, CSV, TSV, JSON lines, JSON or text, plain or packed
    /// with gzip or zstd. Drops empty texts, and exact duplicates within the run unless
    /// --keep-duplicates is given. After Ctrl-C or a kill, the same command resumes where it
    /// stopped. Near duplicates are recognised by their vectors, which prompts.v1 does not hold:
    /// see `unprompt index build --near-duplicate`.
    Import(Import),
    /// Print prompts of the tiny world as JSON lines, or write them as a table
    Sample(Sample),
}

/// The inputs of a corpus, and how its rows are cleaned.
#[derive(Args, Clone, Debug)]
pub struct ReadCorpus {
    /// Files, folders, globs, s3://bucket/key-or-prefix, http(s):// addresses of files, or - for
    /// standard input
    #[arg(required = true)]
    pub sources: Vec<String>,
    /// Format of all inputs: diffusion-db, coco-captions, coyo, lexica, parquet, csv, tsv, jsonl,
    /// json or text (default: recognised by name and content)
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Read all inputs as JSON lines, like --format jsonl
    #[arg(long, conflicts_with = "format")]
    pub jsonl: bool,
    /// Column or key that holds a field (repeatable): text, source, seeds, created_at, similarity,
    /// aesthetic or nsfw (default for text: text, prompt or caption)
    #[arg(long, value_name = "MEANING=COLUMN")]
    pub column: Vec<String>,
    /// Columns to keep as attributes, separated by commas (default: those that suit the data set)
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub attributes: Option<Vec<String>>,
    /// CSV and TSV files have no header; the columns are named 1, 2, …
    #[arg(long)]
    pub no_header: bool,
    /// Source of prompts that name none (default: the name of the data set or of the file)
    #[arg(long)]
    pub source: Option<String>,
    /// Drop texts with fewer characters
    #[arg(long, value_name = "N")]
    pub min_chars: Option<usize>,
    /// Drop texts with more characters
    #[arg(long, value_name = "N")]
    pub max_chars: Option<usize>,
    /// Drop texts with fewer MiniLM tokens
    #[arg(long, value_name = "N")]
    pub min_tokens: Option<usize>,
    /// Drop texts with more MiniLM tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Keep only texts in this language, such as en, and texts too short to tell (repeatable)
    #[arg(long, value_name = "CODE")]
    pub language: Vec<String>,
    /// Drop rows with a lower similarity of picture and text (COYO's clip_similarity_vitb32); rows
    /// without the score stay
    #[arg(long, value_name = "SCORE")]
    pub min_similarity: Option<f64>,
    /// Drop rows with a lower aesthetic score
    #[arg(long, value_name = "SCORE")]
    pub min_aesthetic: Option<f64>,
    /// Drop rows with a higher NSFW score
    #[arg(long, value_name = "SCORE")]
    pub max_nsfw: Option<f64>,
    /// Keep exact duplicates, so that their sources are merged
    #[arg(long)]
    pub keep_duplicates: bool,
    /// Start over instead of resuming an earlier run
    #[arg(long)]
    pub restart: bool,
    /// Write what was dropped and why to this file (JSON)
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
    /// Number of prompts to print
    #[arg(long, short = 'n', default_value_t = 10)]
    pub count: usize,
    /// Seed of the sequence of prompts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave out repeated prompts; finds at most half of the prompts of the grammar
    #[arg(long)]
    pub distinct: bool,
    /// Seeds of each prompt; a picture is generated for each of them
    #[arg(long, default_value_t = 0)]
    pub seeds: usize,
    /// Write a table instead: .parquet, .csv, .tsv or .jsonl, the last three also with .gz or .zst
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
