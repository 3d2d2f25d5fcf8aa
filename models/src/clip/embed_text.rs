//! The text tower as users meet it: texts in, unit vectors out, in one space with the vision tower's.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::config::ClipConfig;
use super::embed::unit_rows;
use super::text::TextTransformer;
use crate::engine::{self, Choice, Engine};
use crate::ops::Linear;
use crate::texts::{self, Lanes, TextNetwork};
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, device, files};

/// CLIP's text tower.
#[derive(Debug)]
pub struct ClipText {
    tokenizer: TextTokenizer,
    /// A session of ONNX Runtime works for one caller at a time.
    lanes: Mutex<Lanes>,
    choice: Choice,
    dims: usize,
    revision: Revision,
}

impl ClipText {
    /// Loads the text tower of a transformers folder.
    pub fn load(folder: &Path, engine: Engine) -> Result<Self, ModelError> {
        let config: ClipConfig = files::read_json(&folder.join("config.json"))?;
        let text = &config.text_config;
        let tokenizer = TextTokenizer::load(folder, text.max_position_embeddings)?;
        let (lanes, choice) =
            engine::load("clip text", engine, &tokenizer, |engine| lanes(folder, &config, engine))?;
        let count = lanes.len();
        let loaded = Self {
            tokenizer,
            lanes: Mutex::new(lanes),
            choice,
            dims: config.projection_dim,
            revision: Revision::of_folder(folder)?,
        };
        let (engine, reason) = (loaded.engine_name(), loaded.engine_reason());
        tracing::info!(model = %loaded.revision, engine, reason, lanes = count, "clip text loaded");
        Ok(loaded)
    }

    /// The vectors [n, dims] of `texts`, unit norm, in their order. A longer text is cut, its end token kept.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        // A network keeps nothing from one call to the next, so a panic elsewhere has not spoiled it.
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        texts::embed(&self.tokenizer, &mut lanes, texts)
    }

    /// Dimensions of a vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The folder's name and revision, the same for both towers.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// What runs the network, as [`Engine::name`] has it.
    pub fn engine_name(&self) -> &'static str {
        self.choice.engine.name()
    }

    /// Why that runs it.
    pub fn engine_reason(&self) -> &str {
        &self.choice.reason
    }
}

fn lanes(folder: &Path, config: &ClipConfig, engine: Engine) -> Result<Lanes, ModelError> {
    match engine {
        Engine::Candle => Ok(vec![Box::new(CandleText::load(folder, config)?)]),
        #[cfg(feature = "onnx")]
        engine => crate::onnx::OnnxClipText::load(folder, config, engine),
        #[cfg(not(feature = "onnx"))]
        _ => Err(ModelError::OnnxRuntime("this build lacks the onnx feature".to_owned())),
    }
}

/// What follows the end token is hidden from it, so any token that every vocabulary has will do.
pub(crate) const PADDING: u32 = 0;

/// The tower on candle.
#[derive(Debug)]
struct CandleText {
    transformer: TextTransformer,
    projection: Linear,
}

impl CandleText {
    fn load(folder: &Path, config: &ClipConfig) -> Result<Self, ModelError> {
        let text = &config.text_config;
        let weights = files::load_weights(folder, &device::preferred()?)?;
        let broken = |error| ModelError::broken(folder.join("model.safetensors"), error);
        let projection = Linear::load(weights.pp("text_projection"), text.hidden_size, config.projection_dim);
        Ok(Self {
            transformer: TextTransformer::load(weights, text).map_err(broken)?,
            projection: projection.map_err(broken)?,
        })
    }
}

impl TextNetwork for CandleText {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let length = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let padded =
            |ids: &&[u32]| ids.iter().copied().chain(std::iter::repeat(PADDING)).take(length).collect();
        let rows: Vec<Vec<u32>> = ids.iter().map(padded).collect();
        unit_rows(&self.projection.forward(&self.transformer.pooled(&rows)?)?)
    }
}
