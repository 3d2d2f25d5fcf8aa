//! The speed of reading, cleaning and writing tables of prompts, and of finding near duplicates.
//! Each step prints one JSON object.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde_json::{Map, Value, json};
use unprompt_benchmarks::vectors::Vectors;
use unprompt_benchmarks::{minilm, texts};
use unprompt_corpus::near::NearDuplicates;
use unprompt_corpus::table::{Columns, ExportRow, TableWriter};
use unprompt_corpus::{Corpus, Options};
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_schemas::identity::prompt_id;

/// The measured formats.
const TABLES: [&str; 3] = ["table.parquet", "table.jsonl", "table.csv.gz"];
/// Rows per write and per read.
const CHUNK: usize = 4_096;
/// Vectors whose result is checked by comparison with every earlier vector.
const COMPARED: usize = 200;

#[derive(Debug, Parser)]
#[command(about = "Measures corpus/")]
struct Cli {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Write a table in each format, and read and clean it
    Tables {
        #[arg(long, default_value_t = 1_000_000)]
        count: usize,
    },
    /// Find near duplicates by their MiniLM vectors
    NearDuplicates {
        /// The folder of the vectors, which are created if missing
        #[arg(long)]
        vectors: PathBuf,
        #[arg(long, default_value_t = 200_000)]
        count: usize,
        /// The minimum cosine of a near duplicate
        #[arg(long, default_value_t = 0.95)]
        threshold: f32,
    },
}

fn main() -> anyhow::Result<()> {
    let answer = match Cli::parse().step {
        Step::Tables { count } => tables(count)?,
        Step::NearDuplicates { vectors, count, threshold } => near_duplicates(&vectors, count, threshold)?,
    };
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}

fn tables(count: usize) -> anyhow::Result<Value> {
    let rows: Vec<ExportRow> = texts(count).into_iter().map(row).collect();
    let folder = tempfile::tempdir()?;
    let mut tables = Map::new();
    for name in TABLES {
        tables.insert(name.into(), table(&folder.path().join(name), &rows)?);
    }
    Ok(json!({"count": count, "tables": tables}))
}

fn row(text: String) -> ExportRow {
    let sources = vec!["tiny-world".into()];
    ExportRow { prompt_id: prompt_id(&text), text, sources, ..ExportRow::default() }
}

fn table(path: &Path, rows: &[ExportRow]) -> anyhow::Result<Value> {
    let began = Instant::now();
    let mut writer = TableWriter::create(path, Columns::default())?;
    rows.chunks(CHUNK).try_for_each(|rows| writer.write(rows))?;
    writer.finish()?;
    let write_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let sources = vec![path.display().to_string()];
    let mut corpus = Corpus::open(Options { sources, ..Options::default() }, None)?;
    while !corpus.next_chunk(CHUNK)?.is_empty() {}
    let per_s = |seconds: f64| rows.len() as f64 / seconds;
    Ok(json!({
        "bytes": std::fs::metadata(path)?.len(), "written_per_s": per_s(write_s),
        "read_and_cleaned_per_s": per_s(began.elapsed().as_secs_f64()),
    }))
}

fn near_duplicates(folder: &Path, count: usize, threshold: f32) -> anyhow::Result<Value> {
    let load = || Ok(MiniLm::load(&minilm(), Engine::Auto)?);
    let vectors = Vectors::fill(folder, count, load, |_| {})?.minilm.read(0, count)?;
    let mut near = NearDuplicates::new(threshold, MiniLm::DIMS)?;
    let began = Instant::now();
    let told = vectors.iter().map(|vector| Ok(near.check(vector)?.is_some()));
    let told: Vec<bool> = told.collect::<anyhow::Result<_>>()?;
    let seconds = began.elapsed().as_secs_f64();
    let (duplicates, missed) = missed(&vectors, &told, threshold);
    Ok(json!({
        "count": count, "kept": near.kept(), "vectors_per_s": count as f64 / seconds,
        "compared": {"duplicates": duplicates, "missed": missed},
    }))
}

/// Checks a sample of the last half: returns how many have a near duplicate among the vectors kept
/// before, and how many of those were missed.
fn missed(vectors: &[Vec<f32>], told: &[bool], threshold: f32) -> (usize, usize) {
    let half = vectors.len() / 2;
    let compared = (half..vectors.len()).step_by((half / COMPARED).max(1));
    let has_one =
        |&at: &usize| (0..at).any(|before| !told[before] && dot(&vectors[before], &vectors[at]) >= threshold);
    let duplicates: Vec<usize> = compared.filter(has_one).collect();
    (duplicates.len(), duplicates.iter().filter(|&&at| !told[at]).count())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
