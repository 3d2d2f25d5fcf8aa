//! BERT (Devlin et al., 2018) as sentence-transformers runs it, on ONNX Runtime: post-norm,
//! absolute positions, the mean over the attention mask, unit norm.

use std::path::Path;

use candle_core::Device;
use serde::Deserialize;

use super::graph::{Graph, Value};
use super::layer::{Shape, post_norm_attention, post_norm_feed_forward};
use super::model::Model;
use super::proto::{FLOAT, INT64, Size, ValueInfo};
use super::session::{Ids, Session};
use crate::engine::Engine;
use crate::metrics::normalise;
use crate::ops::Activation;
use crate::texts::{TextNetwork, TextWorkers};
use crate::{ModelError, files, weights};

/// config.json of transformers' BertModel.
#[derive(Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    hidden_act: Activation,
    layer_norm_eps: f64,
    #[serde(default)]
    pad_token_id: u32,
    model_type: Option<String>,
    position_embedding_type: Option<String>,
}

impl Config {
    fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let config: Self = files::read_settings(&path)?;
        let is = |value: &Option<String>, known| value.as_deref().unwrap_or(known) == known;
        if !is(&config.model_type, "bert") || !is(&config.position_embedding_type, "absolute") {
            return Err(ModelError::unsupported(path, "another network than a BERT with absolute positions"));
        }
        Ok(config)
    }
}

#[derive(Debug)]
pub(crate) struct OnnxBert {
    session: Session,
    width: usize,
    pad: u32,
}

impl OnnxBert {
    /// Loads a sentence-transformers folder on one of ONNX Runtime's engines.
    pub(crate) fn load(folder: &Path, engine: Engine) -> Result<TextWorkers, ModelError> {
        let config = Config::read(folder)?;
        let model = Self::model(folder, engine == Engine::Int8)?;
        let network = |session| {
            let (width, pad) = (config.hidden_size, config.pad_token_id);
            Box::new(Self { session, width, pad }) as Box<dyn TextNetwork>
        };
        Session::workers(model, engine, network)
    }

    /// Returns the network as an ONNX file. Inputs: input_ids and attention_mask [batch, length];
    /// output: last_hidden_state [batch, length, width].
    pub(crate) fn file(folder: &Path) -> Result<Vec<u8>, ModelError> {
        Self::model(folder, false)?.into_file()
    }

    fn model(folder: &Path, int8: bool) -> Result<Model, ModelError> {
        let config = Config::read(folder)?;
        let weights = weights::load(folder, &Device::Cpu)?;
        let nested = weights.contains_tensor("bert.embeddings.word_embeddings.weight");
        let mut graph = Graph::new(if nested { weights.pp("bert") } else { weights }, int8);
        let hidden = network(&mut graph, &config).map_err(|error| ModelError::broken(folder, error))?;
        graph.output(&hidden, "last_hidden_state");
        let sizes = [Size::Named("batch"), Size::Named("length")];
        let inputs = ["input_ids", "attention_mask"].map(|name| ValueInfo::new(name, INT64, &sizes));
        let sizes = [sizes[0], sizes[1], Size::Fixed(config.hidden_size)];
        Ok(graph.finish(inputs.to_vec(), vec![ValueInfo::new("last_hidden_state", FLOAT, &sizes)]))
    }
}

fn network(graph: &mut Graph, config: &Config) -> candle_core::Result<Value> {
    let mask = graph.padding_mask("attention_mask");
    let mut x = embeddings(graph, config)?;
    for k in 0..config.num_hidden_layers {
        x = layer(graph, &x, &mask, &format!("encoder.layer.{k}"), config)?;
    }
    Ok(x)
}

/// Adds the embeddings. All tokens of a sentence have type 0, so its vector is added to every
/// position's vector in the graph's constants.
fn embeddings(graph: &mut Graph, config: &Config) -> candle_core::Result<Value> {
    let (width, positions) = (config.hidden_size, config.max_position_embeddings);
    let types = graph.values("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, width])?;
    let mut places = graph.values("embeddings.position_embeddings.weight", &[positions, width])?;
    for place in places.chunks_exact_mut(width) {
        place.iter_mut().zip(&types).for_each(|(value, of_type)| *value += of_type);
    }
    let places = graph.floats("positions", &[positions, width], places);
    let words = graph.weight("embeddings.word_embeddings.weight", &[config.vocab_size, width])?;
    let words = graph.add("Gather", &[&words, "input_ids"], vec![]);
    let (start, length) = (graph.integers(&[0]), graph.length("input_ids"));
    let places = graph.add("Slice", &[&places, &start, &length], vec![]);
    let sum = graph.add("Add", &[&words, &places], vec![]);
    graph.layer_norm(&sum, "embeddings.LayerNorm", width, config.layer_norm_eps)
}

fn layer(graph: &mut Graph, x: &str, mask: &str, name: &str, config: &Config) -> candle_core::Result<Value> {
    let shape = Shape {
        width: config.hidden_size,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
        eps: config.layer_norm_eps,
    };
    let (itself, out) = (format!("{name}.attention.self"), format!("{name}.attention.output"));
    let x = post_norm_attention(graph, x, (x, shape.width), Some(mask), (&itself, &out), &shape)?;
    let (up, down) = (format!("{name}.intermediate"), format!("{name}.output"));
    post_norm_feed_forward(graph, &x, (&up, &down), &shape)
}

impl TextNetwork for OnnxBert {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let (batch, width) = (Ids::padded(ids, self.pad), self.width);
        let inputs = [("input_ids", batch.tokens()?), ("attention_mask", batch.mask(ids)?)];
        self.session.run(inputs, |hidden| {
            let rows = hidden.chunks_exact((batch.length * width).max(1)).zip(ids);
            rows.map(|(row, ids)| mean_direction(&row[..ids.len() * width], width)).collect()
        })
    }
}

/// Returns the direction of the mean of rows of `width`. The sum has the same direction.
fn mean_direction(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f32; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    normalise(&mut sum);
    sum
}
