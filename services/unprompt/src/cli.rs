//! Every command and flag, in one definition that feeds help and completions.

mod generate;
mod index;
mod models;
mod prompts;
mod search;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use generate::Generate;
pub use index::{Index, IndexBuild, IndexOptimize, IndexRecall, IndexRestore, SearchSpace};
pub use models::{Models, Pin, PullModels};
pub use prompts::{Import, Prompts, ReadCorpus, Sample};
pub use search::{Export, Query};

/// From pictures back to prompts: publish images to a topic, read the prompts they were made from.
#[derive(Debug, Parser)]
#[command(version = env!("UNPROMPT_VERSION"), about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes; each overrides the environment and the configuration file.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file (TOML); without it ./unprompt.toml, where there is one
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kafka's bootstrap servers; without it the embedded broker of `unprompt up`
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Qdrant's gRPC endpoint; without it the embedded index of `unprompt up`
    #[arg(long, global = true, value_name = "URL")]
    pub qdrant: Option<String>,
    /// Where the embedded broker and index keep their data
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON on stdout instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// Log filter, such as `info` or `unprompt_stream=debug` (logs go to stderr)
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Host all services in this process, and broker and index unless they are named
    Up(Up),
    /// Import prompts, generate pictures, train and predict: the main job, with its score
    Demo(Demo),
    /// Run one service against a Kafka and a Qdrant
    Serve(Serve),
    /// Publish pictures (files and folders, or URIs of them) to images.v1
    Publish(Publish),
    /// Publish one picture and wait for its prediction
    Predict(Predict),
    /// Search the prompt index
    Query(Query),
    /// Look after the prompt index: its state, graph, recall, snapshots
    ///
    /// Works on the index of the running `unprompt up` or on --qdrant; where nothing runs on the data directory, it opens the
    /// embedded index itself.
    #[command(subcommand)]
    Index(Index),
    /// Bring prompts in
    #[command(subcommand)]
    Prompts(Prompts),
    /// Draw pictures of many prompts: to images.v1, a folder or parquet files
    ///
    /// Reads prompts as `unprompt prompts import` does and draws with the model and settings of [models] sd2 and [generator]. Stopped by
    /// Ctrl-C or killed, the same command resumes at the next picture, with the same seeds; --restart begins again. After a kill
    /// pictures of the last second may come to the topic twice, with the same ids. Several
    /// workers share the work by --part 1/N to N/N. Ends with what a million pictures would cost at the rate that was seen.
    Generate(Generate),
    /// Fetch the published models and check them
    #[command(subcommand)]
    Models(Models),
    /// Train a head from the topics and announce it
    Train(Train),
    /// Score predictions against the true prompts
    Evaluate(Evaluate),
    /// Look at the topics
    #[command(subcommand)]
    Topics(Topics),
    /// Show how topics and services are: offsets, lag, rates, health, dead letters
    ///
    /// Offsets are what Kafka counts: every record, and on Kafka with exactly-once delivery the mark of each transaction in each
    /// partition that it wrote to, so that there may be up to twice as many offsets as records. Lag counts them too.
    Status(Status),
    /// Look at what was rejected, publish it again, or throw it away
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Look at the records' schemas, and register them with a schema registry
    #[command(subcommand)]
    Schemas(Schemas),
    /// Print every key of the configuration with its default, as TOML
    Config,
    /// Check this machine, the models and the endpoints
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// The shell to print for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub enum Schemas {
    /// List them with their fingerprints and subjects
    List,
    /// Print one as it is registered
    Show {
        /// A record (Prompt), its topic (prompts.v1) or its subject (prompts.v1-value)
        name: String,
    },
    /// Register all of them with the configured registry
    Register {
        /// Afterwards take only such changes of them; ours keep to FULL_TRANSITIVE
        #[arg(long, value_name = "LEVEL", ignore_case = true)]
        compatibility: Option<CompatibilityLevel>,
    },
    /// Ask the registry whether all of them may follow what is registered
    Check,
}

/// Which changes of a schema a registry takes.
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
    /// As registries spell it.
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
    /// List them, oldest first, and count them by code
    List {
        #[command(flatten)]
        selected: Selected,
        /// Only the newest so many
        #[arg(short = 'n', long)]
        limit: Option<usize>,
    },
    /// Show one whole: the reason, where it came from, its own key and headers
    Show {
        /// Its position, as `list` gives it
        #[arg(value_name = "PARTITION:OFFSET")]
        position: String,
        /// Write the record's value to a file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Publish records again as they were, to the topics they came from
    ///
    /// In order within a partition. They stay among the dead letters; it prints how `purge` deletes all that were there by now, and not
    /// what is rejected again.
    Replay {
        #[command(flatten)]
        selected: Selected,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Delete for good all that are there now, or those that a replay has read
    Purge {
        /// Yes, for good
        #[arg(long)]
        yes: bool,
        /// Only what stands before this position in its partition (repeatable), as `replay` prints it
        #[arg(long, value_name = "PARTITION:OFFSET", value_parser = position)]
        up_to: Vec<(i32, i64)>,
    },
}

/// Which dead letters are meant; all conditions hold together.
#[derive(Args, Clone, Debug, Default)]
pub struct Selected {
    /// Those at these positions
    #[arg(value_name = "PARTITION:OFFSET")]
    pub positions: Vec<String>,
    /// Those that this service rejected
    #[arg(long)]
    pub service: Option<String>,
    /// Those with this code, such as `truncated-image`
    #[arg(long)]
    pub code: Option<String>,
}

impl Selected {
    /// Nothing was said.
    pub fn is_everything(&self) -> bool {
        self.positions.is_empty() && self.service.is_none() && self.code.is_none()
    }
}

#[derive(Args, Clone, Debug)]
pub struct Up {
    /// Port of the embedded broker, 0 for any
    #[arg(long)]
    pub broker_port: Option<u16>,
    /// Port of the embedded index, 0 for any
    #[arg(long)]
    pub index_port: Option<u16>,
    /// Port of /livez, /readyz and /metrics, 0 for any
    #[arg(long)]
    pub http_port: Option<u16>,
}

#[derive(Args, Clone, Debug)]
pub struct Demo {
    #[command(flatten)]
    pub up: Up,
    /// End after the table instead of staying up
    #[arg(long)]
    pub once: bool,
    /// Where to write the report (JSON)
    #[arg(long, value_name = "FILE", default_value = "reports/demo.json")]
    pub report: PathBuf,
    /// Prompts to index
    #[arg(long, default_value_t = 20_000)]
    pub prompts: usize,
    /// Pictures to train and validate on
    #[arg(long, default_value_t = 1_000)]
    pub pictures: usize,
    /// Pictures held out, whose prompts are neither indexed nor trained on
    #[arg(long, default_value_t = 250)]
    pub held_out: usize,
    /// Seed of the prompts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Args, Debug)]
pub struct Serve {
    /// The service to run
    pub service: ServiceName,
    /// Port of /livez, /readyz and /metrics, 0 for any
    #[arg(long)]
    pub http_port: Option<u16>,
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
    /// Pictures, or folders of them (searched for .png, .jpg, .jpeg and .webp)
    #[arg(required_unless_present = "uri")]
    pub paths: Vec<PathBuf>,
    /// Publish where pictures are instead of the pictures: file:, http(s): or s3: URIs, which the image-encoder fetches if
    /// [claim_check] allows it
    #[arg(long, value_name = "URI", num_args = 1..)]
    pub uri: Vec<String>,
    /// Wait until every picture is predicted or in the dead letters
    #[arg(long)]
    pub wait: bool,
}

#[derive(Args, Debug)]
pub struct Predict {
    /// The picture: PNG, JPEG or WebP
    pub image: PathBuf,
    /// Prompts to show
    #[arg(long, short = 'n', default_value_t = 10)]
    pub limit: usize,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 60)]
    pub timeout_s: u64,
}

#[derive(Args, Clone, Debug)]
pub struct Train {
    /// The head's name on heads.v1
    #[arg(long, default_value = "ridge")]
    pub name: String,
    /// Share of the prompts kept for validation
    #[arg(long, default_value_t = 0.25)]
    pub validation: f64,
    /// Where head files are kept; without it DATA_DIR/heads
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Evaluate {
    /// JSON lines of the truth: {"image_id": …, "text": …}
    #[arg(long, value_name = "FILE")]
    pub truth: PathBuf,
    /// Score the index as it stands instead: look the pictures' vectors on the topic up again, among all prompts that it holds
    /// now, with so many neighbours (120 without a number)
    #[arg(long, value_name = "K", num_args = 0..=1, default_missing_value = "120", value_parser = neighbours)]
    pub knn: Option<usize>,
}

#[derive(Args, Debug)]
pub struct Status {
    /// Refresh in place until Ctrl-C; without a terminal it prints once all the same
    #[arg(long)]
    pub watch: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub interval_s: f64,
    /// Where a service shows its health and metrics (repeatable); without it where the `unprompt up` of the data
    /// directory does
    #[arg(long, value_name = "URL")]
    pub metrics_url: Vec<String>,
}

/// A place in a topic.
fn position(text: &str) -> Result<(i32, i64), String> {
    let parts = text.split_once(':');
    let parsed = parts.and_then(|(partition, offset)| {
        let partition = partition.parse::<i32>().ok()?;
        Some((partition, offset.parse::<i64>().ok()?))
    });
    parsed.ok_or_else(|| "give PARTITION:OFFSET, as in 0:17".into())
}

/// So many neighbours can be asked for.
fn neighbours(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(k) if (1..=1_000).contains(&k) => Ok(k),
        _ => Err("give 1 to 1000 neighbours".into()),
    }
}

/// A time that can be waited for.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give 0.1 to 86400 seconds".into()),
    }
}

#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Topics with partitions, records and limits
    List,
    /// Print records as they come
    Tail(Tail),
}

#[derive(Args, Debug)]
pub struct Tail {
    /// The topic, such as predictions.v1
    pub topic: String,
    /// Start with the first record there is
    #[arg(long)]
    pub from_beginning: bool,
    /// Stop after this many records
    #[arg(long, short = 'n')]
    pub limit: Option<usize>,
}
