//! `[models]`: which models a process uses, in folders or by name, and what runs them.
//!
//! It must not know where models that are named are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::encoder::{Precision, VisionSettings};
use crate::minilm::Engine;

/// The section's defaults, as TOML with comments for its readers.
pub const DEFAULTS: &str = include_str!("default.toml");

/// `[models]`: folders in the layouts of the field, or names of models that `unprompt models`
/// fetches.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// sentence-transformers' all-MiniLM-L6-v2.
    #[serde(default)]
    pub minilm: Option<PathBuf>,
    /// The image encoder whose space pictures and prompts share, in transformers' or open_clip's
    /// layout.
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
    /// Runs MiniLM and the text towers.
    pub engine: Engine,
    /// Runs the vision towers.
    pub vision_engine: Engine,
    /// Of the vision towers' matrices on candle.
    pub precision: Precision,
}

impl ModelSettings {
    /// The settings of a vision tower, at a side of its own.
    pub fn vision(&self, side: Option<usize>) -> VisionSettings {
        VisionSettings { side, precision: self.precision, engine: self.vision_engine }
    }
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
