//! Every command and flag. Help and shell completions are generated from these definitions.

mod generate;
mod index;
mod models;
mod prompts;
mod search;

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use strum::VariantNames;

pub use generate::Generate;
pub use index::{Index, IndexBuild, IndexOptimize, IndexRecall, IndexRestore};
pub use models::{Models, Pin, PullModels};
pub use prompts::{Import, Prompts, ReadCorpus, Sample};
pub use search::{Export, Query};

/// Recover prompts from pictures: publish pictures to a topic, read the prompts they were made
/// from.
#[derive(Debug, Parser)]
#[command(version = env!("UNPROMPT_VERSION"), about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command. Each overrides the environment and the configuration file.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file in TOML (default: ./unprompt.toml, if it exists)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kafka's bootstrap servers (default: the embedded broker of `unprompt up`)
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Qdrant's gRPC endpoint (default: the embedded index of `unprompt up`)
    #[arg(long, global = true, value_name = "URL")]
    pub qdrant: Option<String>,
    /// Data directory of the embedded broker and index
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON on stdout instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// Log filter, such as `info` or `unprompt_stream=debug`; logs go to stderr
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all services in this process, with an embedded broker and index unless others are named
    Up(Up),
    /// Run the whole flow on the tiny world and score it: import, generate, train, predict
    Demo(Demo),
    /// Run one service on Kafka and Qdrant
    Serve(Serve),
    /// Publish pictures to images.v1: files, folders, or URIs
    Publish(Publish),
    /// Publish one picture and wait for its prediction
    Predict(Predict),
    /// Search the prompt index
    Query(Query),
    /// Manage the prompt index: state, graph, recall, snapshots
    ///
    /// Uses the index of the running `unprompt up`, or of --qdrant. If no process holds the data
    /// directory, the command opens the embedded index itself.
    #[command(subcommand)]
    Index(Index),
    /// Import prompts, or print sample prompts
    #[command(subcommand)]
    Prompts(Prompts),
    /// Draw pictures of many prompts, to images.v1, a folder or parquet files
    ///
    /// Reads prompts like `unprompt prompts import`. Draws with the model of [models] sd2 and the
    /// settings of [generator]. After Ctrl-C or a kill, the same command resumes at the next
    /// picture with the same seeds; --restart starts over. After a kill, pictures of the last
    /// second may be published twice, with the same ids. Several workers share the work with --part
    /// 1/N to N/N. At the end it prints what a million pictures would cost at the measured rate.
    Generate(Generate),
    /// Manage models: list, fetch, verify, pin
    #[command(subcommand)]
    Models(Models),
    /// Train a head from the topics and announce it on heads.v1
    Train(Train),
    /// Score predictions against the true prompts
    Evaluate(Evaluate),
    /// List the topics, or print their records
    #[command(subcommand)]
    Topics(Topics),
    /// Show the state of topics and services: offsets, lag, rates, health, dead letters
    ///
    /// Offsets count every record. With exactly-once delivery on Kafka they also count one mark per
    /// transaction in each partition that the transaction wrote to, so there may be up to twice as
    /// many offsets as records. Lag counts the marks too.
    Status(Status),
    /// List, show, replay or purge rejected records
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// List the schemas of the records, and register them with a schema registry
    #[command(subcommand)]
    Schemas(Schemas),
    /// Print every configuration key with its default, as TOML
    Config,
    /// Check this machine, the models and the endpoints
    Doctor,
    /// Print a shell completion script
    Completions {
        /// Shell to write the script for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub enum Schemas {
    /// List the schemas with their fingerprints and subjects
    List,
    /// Print a schema as it is registered
    Show {
        /// Record (Prompt), topic (prompts.v1) or subject (prompts.v1-value)
        name: String,
    },
    /// Register all schemas with the configured registry
    Register {
        /// Then set this compatibility level for their subjects; our schemas keep to
        /// FULL_TRANSITIVE
        #[arg(long, value_name = "LEVEL", ignore_case = true)]
        compatibility: Option<CompatibilityLevel>,
    },
    /// Ask the registry whether all schemas are compatible with the registered ones
    Check,
}

/// The schema changes that a registry accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CompatibilityLevel {
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
    None,
}

impl CompatibilityLevel {
    /// Returns the name that registries use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
            Self::None => "NONE",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List dead letters, oldest first, and count them by code
    List {
        #[command(flatten)]
        selected: Selected,
        /// List only the newest LIMIT
        #[arg(short = 'n', long)]
        limit: Option<usize>,
    },
    /// Show one dead letter in full: reason, origin, and the record's key and headers
    Show {
        /// Position of the dead letter, as `list` prints it
        #[arg(value_name = "PARTITION:OFFSET")]
        position: String,
        /// Write the record's value to this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Publish rejected records again, unchanged, to the topics they came from
    ///
    /// Keeps the order within a partition. The dead letters stay on their topic. Prints the `purge`
    /// command that deletes every dead letter read so far, and keeps records that are rejected
    /// again.
    Replay {
        #[command(flatten)]
        selected: Selected,
        /// Replay all dead letters
        #[arg(long)]
        all: bool,
    },
    /// Delete all current dead letters for good, or those that a replay has read
    Purge {
        /// Confirm the deletion
        #[arg(long)]
        yes: bool,
        /// Delete only records before this position in its partition, as `replay` prints it
        /// (repeatable)
        #[arg(long, value_name = "PARTITION:OFFSET", value_parser = position)]
        up_to: Vec<(i32, i64)>,
    },
}

/// Selects dead letters; all conditions must hold.
#[derive(Args, Clone, Debug, Default)]
pub struct Selected {
    /// Only the dead letters at these positions
    #[arg(value_name = "PARTITION:OFFSET")]
    pub positions: Vec<String>,
    /// Only records that this service rejected
    #[arg(long)]
    pub service: Option<String>,
    /// Only records with this code, such as `truncated-image`
    #[arg(long)]
    pub code: Option<String>,
}

impl Selected {
    /// Returns whether no condition was given.
    pub fn is_everything(&self) -> bool {
        self.positions.is_empty() && self.service.is_none() && self.code.is_none()
    }
}

#[derive(Args, Clone, Debug)]
pub struct Up {
    /// Port of the embedded broker (0: any free port)
    #[arg(long)]
    pub broker_port: Option<u16>,
    /// Port of the embedded index (0: any free port)
    #[arg(long)]
    pub index_port: Option<u16>,
    /// Port of /livez, /readyz and /metrics (0: any free port)
    #[arg(long)]
    pub http_port: Option<u16>,
    /// Start of services whose outputs exist, but whose offsets Kafka has forgotten
    #[arg(long, value_name = "WHERE")]
    pub from: Option<From>,
}

/// The start of a service whose offsets are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// At the earliest record that is kept: outputs are written again
    Earliest,
    /// At the next record that is published
    Latest,
}

#[derive(Args, Clone, Debug)]
pub struct Demo {
    #[command(flatten)]
    pub up: Up,
    /// Exit after the table instead of staying up
    #[arg(long)]
    pub once: bool,
    /// File to write the JSON report to
    #[arg(long, value_name = "FILE", default_value = "reports/demo.json")]
    pub report: PathBuf,
    /// Number of prompts to index
    #[arg(long, default_value_t = 20_000)]
    pub prompts: usize,
    /// Number of pictures to train and validate on
    #[arg(long, default_value_t = 1_000)]
    pub pictures: usize,
    /// Number of held-out pictures, whose prompts are neither indexed nor trained on
    #[arg(long, default_value_t = 250)]
    pub held_out: usize,
    /// Seed of the prompts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Args, Debug)]
pub struct Serve {
    /// Service to run
    pub service: ServiceName,
    /// Port of /livez, /readyz and /metrics (0: any free port)
    #[arg(long)]
    pub http_port: Option<u16>,
    /// Start of the service if its outputs exist, but Kafka has forgotten its offsets
    #[arg(long, value_name = "WHERE")]
    pub from: Option<From>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServiceName {
    Generator,
    TextEncoder,
    ImageEncoder,
    Indexer,
    Predictor,
}

#[derive(Args, Debug)]
pub struct Publish {
    /// Pictures, or folders to search for .png, .jpg, .jpeg and .webp files
    #[arg(required_unless_present = "uri")]
    pub paths: Vec<PathBuf>,
    /// Publish URIs (file:, http(s):, s3:) instead of pictures; the image-encoder fetches them if
    /// [claim_check] allows it
    #[arg(long, value_name = "URI", num_args = 1..)]
    pub uri: Vec<String>,
    /// Wait until every picture has a prediction or is a dead letter
    #[arg(long)]
    pub wait: bool,
}

#[derive(Args, Debug)]
pub struct Predict {
    /// Picture to predict: PNG, JPEG or WebP
    pub image: PathBuf,
    /// Number of prompts to show
    #[arg(long, short = 'n', default_value_t = 10)]
    pub limit: usize,
    /// Seconds to wait for the prediction
    #[arg(long, default_value_t = 60)]
    pub timeout_s: u64,
}

#[derive(Args, Clone, Debug)]
pub struct Train {
    /// Name of the head on heads.v1
    #[arg(long, default_value = "ridge")]
    pub name: String,
    /// Share of the prompts kept for validation
    #[arg(long, default_value_t = 0.25)]
    pub validation: f64,
    /// Directory for head files (default: DATA_DIR/heads)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Evaluate {
    /// True prompts as JSON lines: {"image_id": …, "text": …}
    #[arg(long, value_name = "FILE")]
    pub truth: PathBuf,
    /// Score the current index instead of the predictions: search all its prompts with the
    /// pictures' vectors from the topic, for K neighbours (120 without a number)
    #[arg(long, value_name = "K", num_args = 0..=1, default_missing_value = "120", value_parser = neighbours)]
    pub knn: Option<usize>,
}

#[derive(Args, Debug)]
pub struct Status {
    /// Refresh in place until Ctrl-C; prints once if stdout is not a terminal
    #[arg(long)]
    pub watch: bool,
    /// Seconds between refreshes
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub interval_s: f64,
    /// Address of the health and metrics of a service, repeatable (default: that of the `unprompt
    /// up` on the data directory)
    #[arg(long, value_name = "URL")]
    pub metrics_url: Vec<String>,
}

/// Parses a value of an enum by its name; help and errors list the names.
fn named<T>() -> impl TypedValueParser<Value = T>
where
    T: VariantNames + FromStr + Clone + Send + Sync + 'static,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    PossibleValuesParser::new(T::VARIANTS).try_map(|name| name.parse())
}

/// Parses PARTITION:OFFSET.
fn position(text: &str) -> Result<(i32, i64), String> {
    let parts = text.split_once(':');
    let parsed = parts.and_then(|(partition, offset)| {
        let partition = partition.parse::<i32>().ok()?;
        Some((partition, offset.parse::<i64>().ok()?))
    });
    parsed.ok_or_else(|| "give PARTITION:OFFSET, as in 0:17".into())
}

/// Parses a number of neighbours, 1 to 1,000.
fn neighbours(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(k) if (1..=1_000).contains(&k) => Ok(k),
        _ => Err("give 1 to 1000 neighbours".into()),
    }
}

/// Parses a time of 0.1 to 86,400 seconds.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give 0.1 to 86400 seconds".into()),
    }
}

#[derive(Debug, Subcommand)]
pub enum Topics {
    /// List the topics with offsets, partitions, record size limits and retention
    List,
    /// Print records as they arrive
    Tail(Tail),
}

#[derive(Args, Debug)]
pub struct Tail {
    /// Topic, such as predictions.v1
    pub topic: String,
    /// Start at the first record that the topic still has
    #[arg(long)]
    pub from_beginning: bool,
    /// Stop after this many records
    #[arg(long, short = 'n')]
    pub limit: Option<usize>,
}
