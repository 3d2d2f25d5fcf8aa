//! The text tower as users meet it: texts in, unit vectors out, in one space with the vision tower's.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::DType;
use candle_nn::VarBuilder;

use super::family::Family;
use super::unit_rows;
use crate::clip::{TextConfig, TextTransformer};
use crate::engine::{self, Choice, Engine};
use crate::ops::Linear;
use crate::self_check::Texts;
use crate::texts::{self, Lanes, TextNetwork};
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, device};

/// The text tower of an image encoder.
#[derive(Debug)]
pub struct TextTower {
    tokenizer: TextTokenizer,
    /// A session of ONNX Runtime works for one caller at a time.
    lanes: Mutex<Lanes>,
    choice: Choice,
    dims: usize,
    revision: Revision,
}

impl TextTower {
    /// Loads the text tower of a folder.
    ///
    /// # Errors
    /// A folder without one, of another network, or with files that are missing or broken.
    pub fn load(folder: &Path, engine: Engine) -> Result<Self, ModelError> {
        let family = Family::of_folder(folder)?;
        let Some(positions) = family.text_positions() else {
            let what = "a text tower, which this layout does not have (Blip2ForImageTextRetrieval's has)";
            return Err(ModelError::unsupported(folder, what));
        };
        let tokenizer = TextTokenizer::load(folder, positions)?;
        let what = format!("{} text", family.name());
        let (lanes, choice) =
            engine::load(folder, &what, family.bytes(folder)?, engine, &Texts(&tokenizer), |engine| {
                lanes(folder, &family, engine)
            })?;
        let count = lanes.len();
        let revision = Revision::of_folder(folder)?;
        let loaded = Self { tokenizer, lanes: Mutex::new(lanes), choice, dims: family.dims(), revision };
        let (engine, reason) = (loaded.engine_name(), loaded.engine_reason());
        tracing::info!(model = %loaded.revision, engine, reason, lanes = count, "{what} loaded");
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

fn lanes(folder: &Path, family: &Family, engine: Engine) -> Result<Lanes, ModelError> {
    let device = match engine {
        Engine::Candle => device::preferred(),
        _ => candle_core::Device::Cpu,
    };
    let weights = family.weights(folder, DType::F32, &device)?;
    match engine {
        Engine::Candle => {
            let network = family.text(&weights).map_err(|error| ModelError::broken(folder, error))?;
            Ok(vec![device::loaded(network, &device)?])
        }
        #[cfg(feature = "onnx")]
        engine => family.onnx_text(folder, weights, engine),
        #[cfg(not(feature = "onnx"))]
        _ => Err(ModelError::OnnxRuntime("this build lacks the onnx feature".to_owned())),
    }
}

/// What follows the end token is hidden from it, so any token that every vocabulary has will do.
pub(crate) const PADDING: u32 = 0;

/// CLIP's text tower on candle.
#[derive(Debug)]
pub(super) struct CausalText {
    transformer: TextTransformer,
    projection: Linear,
}

impl CausalText {
    pub(super) fn load(weights: &VarBuilder, config: &TextConfig, dims: usize) -> candle_core::Result<Self> {
        Ok(Self {
            transformer: TextTransformer::load(weights.clone(), config)?,
            projection: Linear::load(weights.pp("text_projection"), config.hidden_size, dims)?,
        })
    }
}

impl TextNetwork for CausalText {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let length = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let padded =
            |ids: &&[u32]| ids.iter().copied().chain(std::iter::repeat(PADDING)).take(length).collect();
        let rows: Vec<Vec<u32>> = ids.iter().map(padded).collect();
        unit_rows(&self.projection.forward(&self.transformer.pooled(&rows)?)?)
    }
}
