//! CLIP's text tower on ONNX Runtime: pre-norm, causal, the last norm applied, the end token's vector projected.

use std::path::Path;

use candle_core::Device;

use super::graph::{Graph, Value};
use super::proto::{FLOAT, INT64, Size, ValueInfo};
use super::session::{Ids, TextSession};
use crate::clip::{ClipConfig, PADDING, TextConfig, end_position};
use crate::engine::Engine;
use crate::metrics::normalise;
use crate::texts::{Lanes, TextNetwork};
use crate::{ModelError, files};

#[derive(Debug)]
pub(crate) struct OnnxClipText {
    session: TextSession,
    dims: usize,
    eos: u32,
}

impl OnnxClipText {
    /// A transformers folder on one of the engines of ONNX Runtime.
    pub(crate) fn load(folder: &Path, config: &ClipConfig, engine: Engine) -> Result<Lanes, ModelError> {
        let graph = Self::graph(folder, config, engine == Engine::Int8)?;
        TextSession::lanes(folder, &graph, engine, |session| {
            Box::new(Self { session, dims: config.projection_dim, eos: config.text_config.eos_token_id })
        })
    }

    /// The network as an ONNX file: input_ids [batch, length] and ends [batch], the end tokens' places among all of
    /// the batch, in; text_embeds [batch, dims] out.
    fn graph(folder: &Path, config: &ClipConfig, int8: bool) -> Result<Vec<u8>, ModelError> {
        let weights = files::load_weights(folder, &Device::Cpu)?;
        let mut graph = Graph::new(weights, int8);
        let broken = |error| ModelError::broken(folder.join("model.safetensors"), error);
        let text = &config.text_config;
        let hidden = network(&mut graph, text).map_err(broken)?;
        let flat = graph.integers(&[-1, text.hidden_size as i64]);
        let flat = graph.add("Reshape", &[&hidden, &flat], vec![]);
        let pooled = graph.add("Gather", &[&flat, "ends"], vec![]);
        let projected = graph.multiply(&pooled, "text_projection", text.hidden_size, config.projection_dim);
        graph.output(&projected.map_err(broken)?, "text_embeds");
        let (batch, length) = (Size::Named("batch"), Size::Named("length"));
        let ids = ValueInfo::new("input_ids", INT64, &[batch, length]);
        let ends = ValueInfo::new("ends", INT64, &[batch]);
        let embeds = ValueInfo::new("text_embeds", FLOAT, &[batch, Size::Fixed(config.projection_dim)]);
        Ok(graph.finish(vec![ids, ends], vec![embeds]))
    }
}

fn network(graph: &mut Graph, config: &TextConfig) -> candle_core::Result<Value> {
    let (width, positions) = (config.hidden_size, config.max_position_embeddings);
    let words = graph.weight("text_model.embeddings.token_embedding.weight", &[config.vocab_size, width])?;
    let words = graph.add("Gather", &[&words, "input_ids"], vec![]);
    let places = graph.weight("text_model.embeddings.position_embedding.weight", &[positions, width])?;
    let (start, length) = (graph.integers(&[0]), graph.length("input_ids"));
    let places = graph.add("Slice", &[&places, &start, &length], vec![]);
    let mask = graph.causal_mask(&length, positions);
    let mut x = graph.add("Add", &[&words, &places], vec![]);
    for k in 0..config.num_hidden_layers {
        x = layer(graph, &x, &mask, &format!("text_model.encoder.layers.{k}"), config)?;
    }
    graph.layer_norm(&x, "text_model.final_layer_norm", width, config.layer_norm_eps)
}

fn layer(
    graph: &mut Graph,
    x: &str,
    mask: &str,
    name: &str,
    config: &TextConfig,
) -> candle_core::Result<Value> {
    let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
    let normal = graph.layer_norm(x, &format!("{name}.layer_norm1"), width, eps)?;
    let mut projection = |part| graph.linear(&normal, &format!("{name}.self_attn.{part}"), width, width);
    let (queries, keys, values) = (projection("q_proj")?, projection("k_proj")?, projection("v_proj")?);
    let mixed = graph.attention([&queries, &keys, &values], mask, config.num_attention_heads, width)?;
    let out = graph.linear(&mixed, &format!("{name}.self_attn.out_proj"), width, width)?;
    let x = graph.add("Add", &[&out, x], vec![]);
    let normal = graph.layer_norm(&x, &format!("{name}.layer_norm2"), width, eps)?;
    let up = graph.linear(&normal, &format!("{name}.mlp.fc1"), width, inner)?;
    let up = graph.activation(&up, config.hidden_act);
    let down = graph.linear(&up, &format!("{name}.mlp.fc2"), inner, width)?;
    Ok(graph.add("Add", &[&down, &x], vec![]))
}

impl TextNetwork for OnnxClipText {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let batch = Ids::padded(ids, PADDING);
        let end = |(row, ids): (usize, &&[u32])| (row * batch.length + end_position(ids, self.eos)) as i64;
        let ends = Ids::places(ids.iter().enumerate().map(end).collect())?;
        let (inputs, dims) = ([("input_ids", batch.tokens()?), ("ends", ends)], self.dims);
        self.session.run(inputs, |embeds| {
            let mut rows: Vec<Vec<f32>> = embeds.chunks_exact(dims).map(<[f32]>::to_vec).collect();
            rows.iter_mut().for_each(|row| normalise(row));
            rows
        })
    }
}
