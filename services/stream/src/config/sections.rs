//! The sections of the configuration file, as plain values.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ClaimCheck, KafkaConfig, RunnerSection, Secret, Telemetry};

/// Everything a process is configured by. The defaults are in `default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub kafka: KafkaConfig,
    pub registry: Registry,
    pub index: Index,
    pub models: Models,
    pub generator: Generator,
    pub images: Images,
    pub claim_check: ClaimCheck,
    pub predictor: Predictor,
    pub runner: RunnerSection,
    pub embedded: Embedded,
    pub http: Http,
    pub log: Log,
    pub telemetry: Telemetry,
}

/// `[registry]`: a Confluent-compatible schema registry, where there is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Its address, or several of them with commas between; without it records are framed by their own fingerprint.
    #[serde(default)]
    pub url: Option<String>,
    /// Whether services may register their schemas; otherwise somebody else has done it.
    pub register: bool,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    /// A bearer token, instead of username and password.
    #[serde(default)]
    pub token: Option<Secret>,
    /// Who signed the registry's certificate (PEM); without it the system's authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How long an answer may take.
    pub timeout_ms: u64,
}

/// `[index]`: Qdrant's gRPC endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Without it the embedded index is meant.
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    pub api_key: Option<Secret>,
    /// Of a collection that is made: `balanced`, `small-memory` or `fastest`.
    pub profile: String,
}

/// `[models]`: folders in the layouts of the field, or names of models that `unprompt models` fetches.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// sentence-transformers' all-MiniLM-L6-v2.
    #[serde(default)]
    pub minilm: Option<PathBuf>,
    /// The image encoder whose space pictures and prompts share, in transformers' or open_clip's layout.
    #[serde(default)]
    pub clip: Option<PathBuf>,
    /// The side in pixels that pictures are brought to for it; its own where absent.
    #[serde(default)]
    pub clip_side: Option<usize>,
    /// Further image encoders, whose vectors image embeddings carry too.
    #[serde(default)]
    pub encoders: Vec<FurtherEncoder>,
    /// diffusers' Stable Diffusion 2.
    #[serde(default)]
    pub sd2: Option<PathBuf>,
    /// Models of one's own that are known by name, beside the published ones.
    #[serde(default)]
    pub manifest: Option<PathBuf>,
    /// Of MiniLM and the text towers: `auto`, `openvino`, `onnx`, `candle`, `openvino-bf16` or `int8`.
    pub engine: String,
    /// Of the vision towers, by the same names.
    pub vision_engine: String,
    /// Of the vision towers' matrices on candle: `f32`, `f16` or `bf16`.
    pub precision: String,
}

/// One of `[models] encoders`: a folder, or a folder and a side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FolderOrTable")]
pub struct FurtherEncoder {
    pub folder: PathBuf,
    /// The side in pixels that pictures are brought to; the encoder's own where absent.
    pub side: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FolderOrTable {
    Folder(PathBuf),
    Table { folder: PathBuf, side: Option<usize> },
}

impl From<FolderOrTable> for FurtherEncoder {
    fn from(given: FolderOrTable) -> Self {
        match given {
            FolderOrTable::Folder(folder) => Self { folder, side: None },
            FolderOrTable::Table { folder, side } => Self { folder, side },
        }
    }
}

/// `[generator]`: how pictures are drawn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    /// `ddim`, `euler`, `euler-ancestral`, `dpm-solver++` or `unipc`.
    pub scheduler: String,
    pub steps: usize,
    pub guidance_scale: f64,
    pub negative_prompt: String,
    /// In pixels; what the model was made for where absent.
    #[serde(default)]
    pub height: Option<usize>,
    #[serde(default)]
    pub width: Option<usize>,
    /// Height and width that finished pictures are brought to, where wanted.
    #[serde(default)]
    pub output: Option<(usize, usize)>,
    /// Of the matrices: `f32`, `f16` or `bf16`.
    pub precision: String,
    /// Whether pictures are decoded in tiles: `auto`, `always` or `never`.
    pub vae_tiles: String,
    /// Pictures in one pass of the network.
    pub batch: usize,
}

/// `[images]`: what is refused before it is decoded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    pub max_bytes: usize,
    pub max_pixels: u64,
}

/// `[predictor]`: how neighbours are found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictor {
    /// Neighbours that vote.
    pub k: usize,
    /// Which space is searched: `clip` or `minilm`.
    pub retrieval: String,
    /// Neighbours written into a prediction.
    pub neighbours: usize,
}

/// `[embedded]`: the broker and index of `unprompt up`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    /// 0 takes any free port.
    pub broker_port: u16,
    /// 0 takes any free port.
    pub index_port: u16,
    pub data_dir: PathBuf,
}

/// `[http]`: /livez, /readyz and /metrics, on 127.0.0.1 unless `host` says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub host: std::net::IpAddr,
    /// 0 takes any free port.
    pub port: u16,
}

impl Http {
    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `[log]`: to stderr.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    /// tracing's filter, such as `info,unprompt_stream=debug`.
    pub filter: String,
}
