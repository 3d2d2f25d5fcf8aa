//! The `[models]` section: the models that a process uses, by folder or name, and the engines that
//! run them.
//!
//! It must not know where named models are stored.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::encoder::{Precision, VisionSettings};
use crate::minilm::Engine;

/// The section's defaults, as TOML with comments for users.
pub const DEFAULTS: &str = include_str!("default.toml");

/// The `[models]` section. A model is a folder in a common layout, or the name of a model that
/// `unprompt models` fetches.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// sentence-transformers' all-MiniLM-L6-v2.
    #[serde(default)]
    pub minilm: Option<PathBuf>,
    /// The image encoder whose vector space pictures and prompts share, in transformers' or
    /// open_clip's layout.
    #[serde(default)]
    pub clip: Option<PathBuf>,
    /// The side in pixels to which pictures are resized for `clip`. The default is the encoder's
    /// own.
    #[serde(default)]
    pub clip_side: Option<usize>,
    /// Further image encoders, whose vectors are added to image embeddings.
    #[serde(default)]
    pub encoders: Vec<FurtherEncoder>,
    /// diffusers' Stable Diffusion 2.
    #[serde(default)]
    pub sd2: Option<PathBuf>,
    /// A manifest of the user's own models, which are known by name like the published ones.
    #[serde(default)]
    pub manifest: Option<PathBuf>,
    /// Runs MiniLM and the text towers.
    pub engine: Engine,
    /// Runs the vision towers.
    pub vision_engine: Engine,
    /// The precision of the vision towers' matrices on candle.
    pub precision: Precision,
}

impl ModelSettings {
    /// Returns the settings of a vision tower with the given side.
    pub fn vision(&self, side: Option<usize>) -> VisionSettings {
        VisionSettings { side, precision: self.precision, engine: self.vision_engine }
    }
}

/// One of `[models] encoders`: a folder, or a folder and a side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FolderOrTable")]
pub struct FurtherEncoder {
    pub folder: PathBuf,
    /// The side in pixels to which pictures are resized. The default is the encoder's own.
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
