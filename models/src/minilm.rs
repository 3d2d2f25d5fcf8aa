//! all-MiniLM-L6-v2 as sentence-transformers runs it: BERT, the mean over the attention mask, unit norm.
//!
//! Two engines give the same vectors (cosine above 0.9999): ONNX Runtime through fastembed, which is the faster one,
//! and candle, which needs nothing but the weights.

mod candle;
#[cfg(feature = "onnx")]
mod onnx;

use std::path::Path;

use serde::Deserialize;

use crate::batches;
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Revision, files};

/// What runs the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// ONNX Runtime where its library and the ONNX graph are found, candle otherwise; the log says which and why.
    #[default]
    Auto,
    /// ONNX Runtime, or an error. Its library is the file `ORT_DYLIB_PATH` names, or `onnxruntime/libonnxruntime.so*`
    /// in the model folder or beside it.
    Onnx,
    Candle,
}

/// Sentence vectors of 384 dimensions.
#[derive(Debug)]
pub struct MiniLm {
    tokenizer: TextTokenizer,
    runner: Runner,
    revision: Revision,
}

#[derive(Debug)]
enum Runner {
    Candle(candle::CandleBert),
    #[cfg(feature = "onnx")]
    Onnx(onnx::OnnxBert),
}

impl Runner {
    fn embed(&mut self, texts: &[&str], ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        match self {
            Self::Candle(bert) => {
                let _ = texts;
                bert.embed(ids)
            }
            #[cfg(feature = "onnx")]
            Self::Onnx(bert) => {
                let _ = ids;
                bert.embed(texts)
            }
        }
    }
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
        let limits: Sentences = files::read_json(&folder.join("sentence_bert_config.json"))?;
        let tokenizer = TextTokenizer::load(folder, limits.max_seq_length)?;
        let runner = match engine {
            Engine::Candle => Runner::Candle(candle::CandleBert::load(folder)?),
            Engine::Onnx => onnx_runner(folder, tokenizer.max_length)?,
            Engine::Auto => onnx_runner(folder, tokenizer.max_length).or_else(|error| {
                tracing::warn!(%error, "minilm runs on candle, about a third as fast");
                candle::CandleBert::load(folder).map(Runner::Candle)
            })?,
        };
        let revision = Revision::of_folder(folder)?;
        let loaded = Self { tokenizer, runner, revision };
        tracing::info!(model = %loaded.revision, engine = loaded.engine_name(), "minilm loaded");
        Ok(loaded)
    }

    /// The vectors [n, 384] of `texts`, unit norm, in their order. A text counts up to 256 tokens; an empty one is
    /// taken like any other.
    pub fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let ids = self.tokenizer.encode(texts)?;
        let mut vectors = vec![Vec::new(); texts.len()];
        for batch in batches::of_similar_length(&ids) {
            let batch_texts: Vec<&str> = batch.iter().map(|&i| texts[i]).collect();
            let batch_ids: Vec<&[u32]> = batch.iter().map(|&i| ids[i].as_slice()).collect();
            for (&i, vector) in batch.iter().zip(self.runner.embed(&batch_texts, &batch_ids)?) {
                vectors[i] = vector;
            }
        }
        Ok(vectors)
    }

    /// The model's name and revision.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// `onnx` or `candle`.
    pub fn engine_name(&self) -> &'static str {
        match self.runner {
            Runner::Candle(_) => "candle",
            #[cfg(feature = "onnx")]
            Runner::Onnx(_) => "onnx",
        }
    }
}

#[cfg(feature = "onnx")]
fn onnx_runner(folder: &Path, max_length: usize) -> Result<Runner, ModelError> {
    onnx::OnnxBert::load(folder, max_length).map(Runner::Onnx)
}

#[cfg(not(feature = "onnx"))]
fn onnx_runner(_folder: &Path, _max_length: usize) -> Result<Runner, ModelError> {
    Err(ModelError::OnnxRuntime("this build lacks the onnx feature".to_owned()))
}
