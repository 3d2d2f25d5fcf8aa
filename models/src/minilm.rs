//! all-MiniLM-L6-v2 as sentence-transformers runs it: BERT, the mean over the attention mask, unit
//! norm.
//!
//! Every engine gives the same vectors. Tests require a cosine to the reference of at least 0.9999,
//! in bf16 0.9995, and for int8 a mean cosine to f32 of at least 0.985. bf16 and int8 are never
//! selected automatically. When an engine is loaded, `self_check` compares it with candle on a few
//! texts, with thresholds of its own.

mod candle;

use std::path::Path;

use serde::Deserialize;

use crate::engine_selection::{self, EngineChoice};
use crate::self_check::Texts;
use crate::texts::{self, TextWorkers};
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, files};

pub use crate::engine::Engine;

/// MiniLM: sentence vectors of 384 dimensions.
#[derive(Debug)]
pub struct MiniLm {
    tokenizer: TextTokenizer,
    workers: TextWorkers,
    choice: EngineChoice,
    revision: Revision,
}

/// sentence_bert_config.json.
#[derive(Debug, Deserialize)]
struct Sentences {
    max_seq_length: usize,
}

impl MiniLm {
    /// Dimensions of a vector.
    pub const DIMS: usize = 384;

    /// Loads a sentence-transformers folder.
    pub fn load(folder: &Path, engine: Engine) -> Result<Self, ModelError> {
        let limits: Sentences = files::read_settings(&folder.join("sentence_bert_config.json"))?;
        let tokenizer = TextTokenizer::load(folder, limits.max_seq_length)?;
        let (workers, choice) = engine_selection::load("minilm", 0, engine, &Texts(&tokenizer), |engine| {
            workers(folder, engine)
        })?;
        let revision = Revision::of_folder(folder)?;
        let loaded = Self { tokenizer, workers, choice, revision };
        let (engine, reason, workers) = (loaded.engine_name(), loaded.engine_reason(), loaded.workers.len());
        tracing::info!(model = %loaded.revision, engine, reason, workers, "minilm loaded");
        Ok(loaded)
    }

    /// Returns the vectors [n, 384] of `texts`, unit norm, in order. A text is truncated at 256
    /// tokens. An empty text is embedded like any other. A repeated text is embedded once.
    pub fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        texts::embed(&self.tokenizer, &mut self.workers, texts)
    }

    /// Returns the network of a folder as an ONNX file. Inputs: input_ids and attention_mask
    /// [batch, length]; output: last_hidden_state [batch, length, 384].
    #[cfg(feature = "onnx")]
    pub fn onnx_graph(folder: &Path) -> Result<Vec<u8>, ModelError> {
        crate::onnx::OnnxBert::file(folder)
    }

    /// The model's name and revision.
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

fn workers(folder: &Path, engine: Engine) -> Result<TextWorkers, ModelError> {
    match engine {
        Engine::Candle => Ok(vec![Box::new(candle::CandleBert::load(folder)?)]),
        #[cfg(feature = "onnx")]
        engine => crate::onnx::OnnxBert::load(folder, engine),
        #[cfg(not(feature = "onnx"))]
        _ => Err(ModelError::OnnxRuntime("this build lacks the onnx feature".to_owned())),
    }
}
