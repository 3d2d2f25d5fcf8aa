//! The flags of `unprompt query` and `unprompt index export`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use unprompt_index::{Diversity, Filter, Space, time_ms};

use super::named;

#[derive(Args, Debug)]
#[group(id = "what", required = true, multiple = false)]
pub struct QueryBy {
    /// Search by meaning: the text's MiniLM vector, or with --using clip its CLIP vector
    #[arg(long)]
    pub text: Option<String>,
    /// Search by picture: its CLIP vector against the prompts' CLIP text vectors
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Search by vector: a JSON list of MiniLM's or the encoder's dimension, or - for standard
    /// input
    #[arg(long, value_name = "JSON")]
    pub vector: Option<String>,
    /// Search for prompts like the one with this id
    #[arg(long)]
    pub id: Option<uuid::Uuid>,
    /// Search by a JSON object in a file or on standard input (-): {"text": …, "limit": …,
    /// "filter": {…}, …}
    ///
    /// The object has one of text, image (base64), image_file, vector and like (the id of a
    /// prompt). The other keys correspond to flags: using, limit, offset, filter (sources,
    /// not_sources, created_from, created_before, min_length, max_length, attributes, words,
    /// phrase, contains), exclude (ids), threshold, diversity ({"mmr": {"lambda": 0.5,
    /// "candidates": 100}} or {"group": {"similarity": 0.95}}), exact, ef, with_vectors. The flags
    /// set the values of keys that are missing.
    #[arg(long, value_name = "FILE")]
    pub request: Option<PathBuf>,
    /// Run many searches: one JSON object a line, as for --request, in a file or on standard input
    /// (-)
    ///
    /// Prints one JSON object a line, in the order of the input: {"line": 1, "hits": […]} or
    /// {"line": 2, "error": "…"}. A line that cannot be answered does not affect the others, but
    /// the exit status is then not zero.
    #[arg(long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Query {
    #[command(flatten)]
    pub by: QueryBy,
    /// Vectors to compare (default: minilm for texts and prompts, clip for pictures, by length for
    /// vectors)
    #[arg(long, value_parser = named::<Space>())]
    pub using: Option<Space>,
    /// Number of prompts to show
    #[arg(long, short = 'n', default_value_t = 10)]
    pub limit: usize,
    /// Skip the N best prompts, for the next page; pages fit together only with --exact
    #[arg(long, value_name = "N")]
    pub offset: Option<usize>,
    /// Only prompts with at least this similarity, -1 to 1
    #[arg(long, allow_negative_numbers = true)]
    pub threshold: Option<f32>,
    /// Compare with every prompt instead of searching the graph
    #[arg(long)]
    pub exact: bool,
    /// Size of HNSW's candidate list: larger finds more and takes longer
    #[arg(long)]
    pub ef: Option<u64>,
    /// Prefer prompts that differ from those before them (maximal marginal relevance): 1 counts
    /// only the similarity to the query, 0 only the differences
    #[arg(long, value_name = "LAMBDA", conflicts_with = "group")]
    pub mmr: Option<f32>,
    /// Show only the best of near duplicates, prompts whose MiniLM vectors have at least this
    /// cosine, such as 0.95
    #[arg(long, value_name = "SIMILARITY")]
    pub group: Option<f32>,
    /// Include the vectors of the prompts in --json and --out
    #[arg(long)]
    pub with_vectors: bool,
    /// Write a table instead: .parquet, .csv, .tsv or .jsonl, the last three also with .gz or .zst;
    /// with --group only the best of each group
    #[arg(long, value_name = "FILE", conflicts_with = "batch")]
    pub out: Option<PathBuf>,
    // Last: its heading holds for every flag after it.
    #[command(flatten)]
    pub filter: FilterArgs,
}

impl Query {
    pub fn diversity(&self) -> Option<Diversity> {
        let mmr = self.mmr.map(|lambda| Diversity::Mmr { lambda, candidates: None });
        mmr.or(self.group.map(|similarity| Diversity::Group { similarity }))
    }
}

/// Selects prompts; all conditions must hold.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Only prompts of this source (repeatable: any of them)
    #[arg(long)]
    pub source: Vec<String>,
    /// No prompts of this source (repeatable: none of them)
    #[arg(long, value_name = "SOURCE")]
    pub not_source: Vec<String>,
    /// Only prompts first seen at this time or later: RFC 3339, a day, which begins at midnight
    /// UTC, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<i64>,
    /// Only prompts first seen before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub before: Option<i64>,
    /// Only prompts of at least this many characters
    #[arg(long, value_name = "CHARS")]
    pub min_length: Option<u64>,
    /// Only prompts of at most this many characters
    #[arg(long, value_name = "CHARS")]
    pub max_length: Option<u64>,
    /// Only prompts with this value of an attribute (repeatable: any of an attribute's values, all
    /// of the attributes)
    #[arg(long, value_name = "KEY=VALUE", value_parser = attribute)]
    pub attribute: Vec<(String, String)>,
    /// Only prompts with all of these words, in any order and case
    #[arg(long, value_name = "TEXT")]
    pub words: Option<String>,
    /// Only prompts with this sequence of words, in any case
    #[arg(long, value_name = "TEXT")]
    pub phrase: Option<String>,
    /// Only prompts that contain exactly this text, also within words
    #[arg(long, value_name = "TEXT")]
    pub contains: Option<String>,
}

impl FilterArgs {
    pub fn filter(&self) -> Filter {
        let mut attributes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in &self.attribute {
            attributes.entry(key.clone()).or_default().push(value.clone());
        }
        Filter {
            sources: self.source.clone(),
            not_sources: self.not_source.clone(),
            created_from_ms: self.since,
            created_before_ms: self.before,
            min_length: self.min_length,
            max_length: self.max_length,
            attributes,
            words: self.words.clone(),
            phrase: self.phrase.clone(),
            contains: self.contains.clone(),
        }
    }
}

#[derive(Args, Debug)]
pub struct Export {
    /// Table to write: .parquet, .csv, .tsv or .jsonl, the last three also with .gz or .zst
    #[arg(value_name = "FILE")]
    pub to: PathBuf,
    /// Include the vectors of the prompts
    #[arg(long)]
    pub with_vectors: bool,
    /// Export at most this many, in the order of their ids
    #[arg(long, short = 'n')]
    pub limit: Option<u64>,
    // Last: its heading holds for every flag after it.
    #[command(flatten)]
    pub filter: FilterArgs,
}

fn time(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(ms) => Ok(ms),
        Err(_) => time_ms(text).map_err(|error| error.to_string()),
    }
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = parts.ok_or("give KEY=VALUE, as in style=oil")?;
    Ok((key.to_owned(), value.to_owned()))
}
