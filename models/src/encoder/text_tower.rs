//! The text tower of an image encoder: maps texts to unit vectors in the same space as the vision
//! tower's.

use parking_lot::Mutex;
use std::path::Path;

use candle_core::DType;

use super::architecture::Architecture;
use super::folder::of_folder;
use crate::engine::Engine;
use crate::engine_selection::{self, EngineChoice};
use crate::self_check::Texts;
use crate::texts::{self, TextWorkers};
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, device};

/// The text tower of an image encoder.
#[derive(Debug)]
pub struct TextTower {
    tokenizer: TextTokenizer,
    /// A session of ONNX Runtime serves one caller at a time.
    workers: Mutex<TextWorkers>,
    choice: EngineChoice,
    dims: usize,
    revision: Revision,
}

impl TextTower {
    /// Loads the text tower of a folder.
    ///
    /// # Errors
    /// Fails if the folder has no text tower or another network, or if files are missing or broken.
    pub fn load(folder: &Path, engine: Engine) -> Result<Self, ModelError> {
        let encoder = of_folder(folder)?;
        let Some(positions) = encoder.text_positions() else {
            let what = "a text tower, which this layout does not have (Blip2ForImageTextRetrieval's has)";
            return Err(ModelError::unsupported(folder, what));
        };
        let tokenizer = TextTokenizer::load(folder, positions)?;
        let what = format!("{} text", encoder.name());
        let (workers, choice) =
            engine_selection::load(&what, encoder.bytes(folder)?, engine, &Texts(&tokenizer), |engine| {
                workers(folder, encoder.as_ref(), engine)
            })?;
        let count = workers.len();
        let revision = Revision::of_folder(folder)?;
        let loaded = Self { tokenizer, workers: Mutex::new(workers), choice, dims: encoder.dims(), revision };
        let (engine, reason) = (loaded.engine_name(), loaded.engine_reason());
        tracing::info!(model = %loaded.revision, engine, reason, workers = count, "{what} loaded");
        Ok(loaded)
    }

    /// Returns the vectors [n, dims] of `texts`, unit norm, in order. A text that is too long is
    /// truncated; its end token is kept.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        // A network keeps no state between calls, so it stays usable after a panic.
        let mut workers = self.workers.lock();
        texts::embed(&self.tokenizer, &mut workers, texts)
    }

    /// Dimensions of a vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The folder's name and revision, the same for both towers.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// The name of the engine that runs the network ([`Engine::name`]).
    pub fn engine_name(&self) -> &'static str {
        self.choice.engine.name()
    }

    /// The reason why this engine was selected.
    pub fn engine_reason(&self) -> &str {
        &self.choice.reason
    }
}

fn workers(folder: &Path, encoder: &dyn Architecture, engine: Engine) -> Result<TextWorkers, ModelError> {
    let device = match engine {
        Engine::Candle => device::preferred(),
        _ => candle_core::Device::Cpu,
    };
    let weights = encoder.weights(folder, DType::F32, &device)?;
    match engine {
        Engine::Candle => {
            let network = encoder.text(&weights).map_err(|error| ModelError::broken(folder, error))?;
            Ok(vec![device::loaded(network, &device)?])
        }
        #[cfg(feature = "onnx")]
        engine => encoder.onnx_text(folder, weights, engine),
        #[cfg(not(feature = "onnx"))]
        _ => Err(ModelError::OnnxRuntime("this build lacks the onnx feature".to_owned())),
    }
}
