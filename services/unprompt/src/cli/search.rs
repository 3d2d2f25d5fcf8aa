//! The flags of searching and exporting.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use unprompt_index::{Diversity, Filter, time_ms};

use super::SearchSpace;

#[derive(Args, Debug)]
#[group(id = "what", required = true, multiple = false)]
pub struct QueryBy {
    /// By meaning: the text's MiniLM vector against the prompts', or with --using clip its CLIP vector
    #[arg(long)]
    pub text: Option<String>,
    /// By picture: its CLIP vector against the prompts' CLIP text vectors
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// By vector: a JSON list of MiniLM's or the encoder's dimension, or - for standard input
    #[arg(long, value_name = "JSON")]
    pub vector: Option<String>,
    /// More like this: the prompt with this id
    #[arg(long)]
    pub id: Option<uuid::Uuid>,
    /// As a JSON object says, in a file or on standard input (-): {"text": …, "limit": …, "filter": {…}, …}
    ///
    /// One of text, image (base64), image_file, vector and like (a prompt's id), and whatever else there is a flag
    /// for: using, limit, offset, filter (sources, not_sources, created_from, created_before, min_length,
    /// max_length, attributes, words, phrase, contains), exclude (ids), threshold, diversity ({"mmr": {"lambda":
    /// 0.5, "candidates": 100}} or {"group": {"similarity": 0.95}}), exact, ef, with_vectors. What it leaves out is
    /// as the flags say.
    #[arg(long, value_name = "FILE")]
    pub request: Option<PathBuf>,
    /// Many searches: a JSON object a line, as for --request, in a file or on standard input (-); prints a JSON
    /// object a line
    ///
    /// In the order of the lines: {"line": 1, "hits": […]} or {"line": 2, "error": "…"}. A line that cannot be
    /// answered does not keep the others from it, but then the exit status is not zero.
    #[arg(long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Query {
    #[command(flatten)]
    pub by: QueryBy,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Which vectors to compare; without it MiniLM's for texts and prompts, CLIP's for pictures
    #[arg(long, value_enum)]
    pub using: Option<SearchSpace>,
    /// Prompts to show
    #[arg(long, short = 'n', default_value_t = 10)]
    pub limit: usize,
    /// Pass over so many of the best: the next page. Pages fit together with --exact
    #[arg(long, value_name = "N")]
    pub offset: Option<usize>,
    /// Only prompts at least this similar, -1 to 1
    #[arg(long, allow_negative_numbers = true)]
    pub threshold: Option<f32>,
    /// Compare with every prompt instead of searching the graph
    #[arg(long)]
    pub exact: bool,
    /// HNSW's candidate list while searching: larger finds more, and takes longer
    #[arg(long)]
    pub ef: Option<u64>,
    /// Prefer prompts that differ from those before them (maximal marginal relevance): 1 looks at the similarity to
    /// what is asked for alone, 0 at the differences alone
    #[arg(long, value_name = "LAMBDA", conflicts_with = "group")]
    pub mmr: Option<f32>,
    /// Show one of prompts that are nearly the same, those whose MiniLM vectors have this cosine, such as 0.95
    #[arg(long, value_name = "SIMILARITY")]
    pub group: Option<f32>,
    /// With --json and --out: the prompts' vectors too
    #[arg(long)]
    pub with_vectors: bool,
    /// Write a table instead: .parquet, .csv, .tsv or .jsonl, the last three also with .gz or .zst; of each --group
    /// its best
    #[arg(long, value_name = "FILE", conflicts_with = "batch")]
    pub out: Option<PathBuf>,
}

impl Query {
    pub fn diversity(&self) -> Option<Diversity> {
        let mmr = self.mmr.map(|lambda| Diversity::Mmr { lambda, candidates: None });
        mmr.or(self.group.map(|similarity| Diversity::Group { similarity }))
    }
}

/// Which prompts are meant; all conditions hold together.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Only prompts")]
pub struct FilterArgs {
    /// Of this source (repeatable: any of them)
    #[arg(long)]
    pub source: Vec<String>,
    /// Not of this source (repeatable: none of them)
    #[arg(long, value_name = "SOURCE")]
    pub not_source: Vec<String>,
    /// First seen at this time or later: RFC 3339, or a day, which begins at midnight UTC
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<i64>,
    /// First seen before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub before: Option<i64>,
    /// Of so many characters at least
    #[arg(long, value_name = "CHARS")]
    pub min_length: Option<u64>,
    /// Of so many characters at the most
    #[arg(long, value_name = "CHARS")]
    pub max_length: Option<u64>,
    /// With this value of an attribute (repeatable: any of an attribute's values, all of the attributes)
    #[arg(long, value_name = "KEY=VALUE", value_parser = attribute)]
    pub attribute: Vec<(String, String)>,
    /// With all of these words, in any order and case
    #[arg(long, value_name = "TEXT")]
    pub words: Option<String>,
    /// With these words one after the other, in any case
    #[arg(long, value_name = "TEXT")]
    pub phrase: Option<String>,
    /// That contain exactly this text, parts of words too
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
    /// The table to write: .parquet, .csv, .tsv or .jsonl, the last three also with .gz or .zst
    #[arg(value_name = "FILE")]
    pub to: PathBuf,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Write the prompts' vectors too
    #[arg(long)]
    pub with_vectors: bool,
    /// Only so many, in the order of their ids
    #[arg(long, short = 'n')]
    pub limit: Option<u64>,
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
