//! BLIP-2's towers as graphs for ONNX Runtime.

use std::path::Path;

use candle_core::Result;
use candle_nn::VarBuilder;

use super::{Blip2Config, QFormerConfig, Reader};
use crate::ModelError;
use crate::encoder::architecture::Architecture;
use crate::engine::Engine;
use crate::onnx::{
    FLOAT, Graph, INT64, Ids, Session, Shape, Size, Value, ValueInfo, clip_vision_tokens,
    post_norm_attention, post_norm_feed_forward, unit_rows,
};
use crate::positions::Resampling;
use crate::texts::{PADDING, TextNetwork, TextWorkers};
use crate::weights::{Blip2Names, renamed};

/// Builds the vision tower for pictures of `side` pixels. Its output is [batch, dims], of any norm.
pub(crate) fn vision(
    weights: &VarBuilder<'static>,
    config: &Blip2Config,
    side: usize,
    int8: bool,
) -> Result<(Graph, Value)> {
    let (vision, qformer) = (&config.vision_config, &config.qformer_config);
    let mut graph = Graph::new(renamed(weights, Blip2Names), int8);
    let tokens = clip_vision_tokens(&mut graph, vision, side, Resampling::Plain)?;
    graph.continue_with(weights.clone());
    let queries = graph.weight("query_tokens", &[1, config.num_query_tokens, qformer.hidden_size])?;
    let queries = graph.repeated(&queries, &tokens);
    let read = read(&mut graph, &queries, Some((&tokens, vision.hidden_size)), None, qformer)?;
    let embeds = match config.is_retrieval() {
        true => {
            let projected = graph.linear(&read, "vision_projection", qformer.hidden_size, config.dims())?;
            let units = graph.unit_rows(&projected);
            graph.mean(&units, 1)
        }
        false => graph.mean(&read, 1),
    };
    Ok((graph, embeds))
}

/// Adds the Q-Former on `x` [batch, tokens, width], which either attends to the tokens of a picture
/// or has its padding hidden by a mask.
fn read(
    graph: &mut Graph,
    x: &str,
    picture: Option<(&str, usize)>,
    mask: Option<&str>,
    config: &QFormerConfig,
) -> Result<Value> {
    let shape = Shape {
        width: config.hidden_size,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
        eps: config.layer_norm_eps,
    };
    let reader = if picture.is_some() { Reader::Queries } else { Reader::Texts };
    let (up, down) = match reader {
        Reader::Queries => ("intermediate_query", "output_query"),
        Reader::Texts => ("intermediate", "output"),
    };
    let mut x = graph.layer_norm(x, "qformer.layernorm", shape.width, shape.eps)?;
    for k in 0..config.num_hidden_layers {
        let name = format!("qformer.encoder.layer.{k}");
        let parts = |part: &str| (format!("{name}.{part}.attention"), format!("{name}.{part}.output"));
        let (asks, out) = parts("attention");
        x = post_norm_attention(graph, &x, (&x, shape.width), mask, (&asks, &out), &shape)?;
        if let Some(picture) = picture.filter(|_| config.reads_picture(k, reader)) {
            let (asks, out) = parts("crossattention");
            x = post_norm_attention(graph, &x, picture, None, (&asks, &out), &shape)?;
        }
        x = post_norm_feed_forward(graph, &x, (&format!("{name}.{up}"), &format!("{name}.{down}")), &shape)?;
    }
    Ok(x)
}

/// The text tower on ONNX Runtime.
#[derive(Debug)]
pub(crate) struct OnnxBlip2Text {
    session: Session,
    dims: usize,
}

impl OnnxBlip2Text {
    pub(crate) fn load(
        folder: &Path,
        config: &Blip2Config,
        weights: VarBuilder<'static>,
        engine: Engine,
    ) -> std::result::Result<TextWorkers, ModelError> {
        let dims = config.dims();
        let mut graph = Graph::new(weights, engine == Engine::Int8);
        let embeds = text(&mut graph, config).map_err(|error| ModelError::broken(folder, error))?;
        graph.output(&embeds, "text_embeds");
        let (batch, length) = (Size::Named("batch"), Size::Named("length"));
        let inputs =
            ["input_ids", "attention_mask"].map(|name| ValueInfo::new(name, INT64, &[batch, length]));
        let embeds = ValueInfo::new("text_embeds", FLOAT, &[batch, Size::Fixed(dims)]);
        let model = graph.finish(inputs.to_vec(), vec![embeds]);
        let network = |session| Box::new(Self { session, dims }) as Box<dyn TextNetwork>;
        Session::workers(model, engine, network)
    }
}

/// Builds the text tower: maps input_ids and attention_mask [batch, length] to [batch, dims].
fn text(graph: &mut Graph, config: &Blip2Config) -> Result<Value> {
    let qformer = &config.qformer_config;
    let width = qformer.hidden_size;
    let words = graph.weight("embeddings.word_embeddings.weight", &[qformer.vocab_size, width])?;
    let words = graph.gather(&words, "input_ids", 0);
    let places =
        graph.weight("embeddings.position_embeddings.weight", &[qformer.max_position_embeddings, width])?;
    let (start, length) = (graph.integers(&[0]), graph.length("input_ids"));
    let places = graph.add("Slice", &[&places, &start, &length], vec![]);
    let embedded = graph.add("Add", &[&words, &places], vec![]);
    let mask = graph.padding_mask("attention_mask");
    let read = read(graph, &embedded, None, Some(&mask), qformer)?;
    let first = graph.first_row(&read);
    graph.linear(&first, "text_projection", width, config.dims())
}

impl TextNetwork for OnnxBlip2Text {
    fn embed(&mut self, ids: &[&[u32]]) -> std::result::Result<Vec<Vec<f32>>, ModelError> {
        let (batch, dims) = (Ids::padded(ids, PADDING), self.dims);
        let inputs = [("input_ids", batch.tokens()?), ("attention_mask", batch.mask(ids)?)];
        self.session.run(inputs, |embeds| unit_rows(embeds, dims))
    }
}
