//! CLIP's text tower on ONNX Runtime: pre-norm, causal, with a final norm and a projection of the
//! end token's vector.

use std::path::Path;

use candle_nn::VarBuilder;

use super::graph::{Graph, Value};
use super::layer::{Shape, layer};
use super::model::Model;
use super::proto::{FLOAT, INT64, Size, ValueInfo};
use super::session::{Ids, Session, unit_rows};
use crate::ModelError;
use crate::clip::{TextConfig, end_position};
use crate::engine::Engine;
use crate::texts::{PADDING, TextNetwork, TextWorkers};

#[derive(Debug)]
pub(crate) struct OnnxClipText {
    session: Session,
    dims: usize,
    eos: u32,
}

impl OnnxClipText {
    /// Loads weights under transformers' names on one of ONNX Runtime's engines.
    pub(crate) fn load(
        folder: &Path,
        (config, dims): (&TextConfig, usize),
        weights: VarBuilder<'static>,
        engine: Engine,
    ) -> Result<TextWorkers, ModelError> {
        let model = Self::model(folder, (config, dims), weights, engine == Engine::Int8)?;
        let network = |session| {
            let eos = config.eos_token_id;
            Box::new(Self { session, dims, eos }) as Box<dyn TextNetwork>
        };
        Session::workers(model, engine, network)
    }

    /// Builds the network. Inputs: input_ids [batch, length] and ends [batch], the positions of the
    /// end tokens in the flattened batch; output: text_embeds [batch, dims].
    fn model(
        folder: &Path,
        (config, dims): (&TextConfig, usize),
        weights: VarBuilder<'static>,
        int8: bool,
    ) -> Result<Model, ModelError> {
        let mut graph = Graph::new(weights, int8);
        let broken = |error| ModelError::broken(folder, error);
        let hidden = network(&mut graph, config).map_err(broken)?;
        let flat = graph.integers(&[-1, config.hidden_size as i64]);
        let flat = graph.add("Reshape", &[&hidden, &flat], vec![]);
        let pooled = graph.add("Gather", &[&flat, "ends"], vec![]);
        let projected = graph.multiply(&pooled, "text_projection", config.hidden_size, dims);
        graph.output(&projected.map_err(broken)?, "text_embeds");
        let (batch, length) = (Size::Named("batch"), Size::Named("length"));
        let ids = ValueInfo::new("input_ids", INT64, &[batch, length]);
        let ends = ValueInfo::new("ends", INT64, &[batch]);
        let embeds = ValueInfo::new("text_embeds", FLOAT, &[batch, Size::Fixed(dims)]);
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
    let shape = Shape {
        width,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
        eps: config.layer_norm_eps,
    };
    let mut x = graph.add("Add", &[&words, &places], vec![]);
    for k in 0..config.num_hidden_layers {
        x = layer(graph, &x, Some(&mask), &format!("text_model.encoder.layers.{k}"), &shape)?;
    }
    graph.layer_norm(&x, "text_model.final_layer_norm", width, config.layer_norm_eps)
}

impl TextNetwork for OnnxClipText {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let batch = Ids::padded(ids, PADDING);
        let end = |(row, ids): (usize, &&[u32])| (row * batch.length + end_position(ids, self.eos)) as i64;
        let ends = Ids::places(ids.iter().enumerate().map(end).collect())?;
        let (inputs, dims) = ([("input_ids", batch.tokens()?), ("ends", ends)], self.dims);
        self.session.run(inputs, |embeds| unit_rows(embeds, dims))
    }
}
