//! CLIP's vision tower on ONNX Runtime: patches, the class token, pre-norm layers, the class token's state projected.

use std::path::Path;

use candle_core::{Device, Result as CandleResult};
use candle_nn::VarBuilder;

use super::graph::{Graph, Value};
use super::layer::{Shape, layer};
use super::proto::{FLOAT, Size, ValueInfo};
use super::session::{Session, tensor};
use crate::ModelError;
use crate::clip::{ClipConfig, VisionConfig};
use crate::engine::Engine;
use crate::lanes;
use crate::metrics::normalise;
use crate::picture::Pixels;
use crate::positions::{self, Resampling};

/// Pictures in a batch.
const PICTURES: usize = 8;

/// What protobuf allows a message, of which the graph with its weights is one.
const GRAPH_BYTES: u64 = (2 << 30) - (1 << 20);

#[derive(Debug)]
pub(crate) struct OnnxClipVision {
    lanes: Vec<Session>,
    dims: usize,
}

impl OnnxClipVision {
    /// Weights under transformers' names on one of the engines of ONNX Runtime, for pictures of a side, to which positions are
    /// interpolated.
    pub(crate) fn load(
        folder: &Path,
        config: &ClipConfig,
        weights: VarBuilder<'static>,
        (side, resampling): (usize, Resampling),
        engine: Engine,
    ) -> Result<Self, ModelError> {
        let vision = &config.vision_config;
        let bytes = weight_bytes(vision, config.projection_dim);
        if bytes > GRAPH_BYTES && engine != Engine::Int8 {
            return Err(ModelError::OnnxRuntime(format!(
                "a graph holds 2 GiB of weights at most, and this network has {:.1}",
                bytes as f64 / (1u64 << 30) as f64
            )));
        }
        let mut graph = Graph::new(weights, engine == Engine::Int8);
        let dims = config.projection_dim;
        network(&mut graph, vision, dims, (side, resampling))
            .map_err(|error| ModelError::broken(folder, error))?;
        let pictures = [Size::Named("batch"), Size::Fixed(side), Size::Fixed(side), Size::Fixed(3)];
        let inputs = vec![ValueInfo::new("pixels", FLOAT, &pictures)];
        let embeds = ValueInfo::new("image_embeds", FLOAT, &[Size::Named("batch"), Size::Fixed(dims)]);
        let graph = graph.finish(inputs, vec![embeds]);
        Ok(Self { lanes: Session::lanes(folder, &graph, engine, |session| session)?, dims })
    }

    /// The vectors [n, dims] of preprocessed pictures, unit norm, in their order.
    pub(crate) fn embed(&mut self, pictures: &[&Pixels]) -> Result<Vec<Vec<f32>>, ModelError> {
        let (dims, count) = (self.dims, self.lanes.len());
        let together = PICTURES.min(pictures.len().div_ceil(count).max(1));
        let batches: Vec<&[&Pixels]> = pictures.chunks(together).collect();
        let done = lanes::share(&mut self.lanes, batches.len(), |session, at| {
            embed_batch(session, batches[at], dims)
        })?;
        Ok(done.into_iter().flatten().collect())
    }
}

fn embed_batch(session: &mut Session, batch: &[&Pixels], dims: usize) -> Result<Vec<Vec<f32>>, ModelError> {
    let Some(first) = batch.first() else { return Ok(Vec::new()) };
    let values: Vec<f32> = batch.iter().flat_map(|pixels| &pixels.values).copied().collect();
    let pixels = tensor([batch.len(), first.height, first.width, 3], values)?;
    session.run([("pixels", pixels)], |embeds| {
        let mut rows: Vec<Vec<f32>> = embeds.chunks_exact(dims).map(<[f32]>::to_vec).collect();
        rows.iter_mut().for_each(|row| normalise(row));
        rows
    })
}

fn weight_bytes(config: &VisionConfig, dims: usize) -> u64 {
    let (width, inner) = (config.hidden_size as u64, config.intermediate_size as u64);
    let layers = config.num_hidden_layers as u64 * (4 * width * width + 2 * width * inner);
    let patch = (config.patch_size * config.patch_size * config.num_channels) as u64;
    4 * (layers + width * (patch + dims as u64))
}

/// pixels [batch, side, side, 3] in, image_embeds [batch, dims] out.
fn network(
    graph: &mut Graph,
    config: &VisionConfig,
    dims: usize,
    (side, resampling): (usize, Resampling),
) -> CandleResult<Value> {
    let (width, patch, eps) = (config.hidden_size, config.patch_size, config.layer_norm_eps);
    let shape = Shape {
        width,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
        eps,
    };
    let patches = graph.patches("pixels", "vision_model.embeddings.patch_embedding", patch, width)?;
    let class = graph.values("vision_model.embeddings.class_embedding", &[width])?;
    let class = graph.floats("class", &[1, 1, width], &class);
    let mut x = graph.prepended(&class, &patches);
    let places = positions(graph, config, side / patch, resampling)?;
    x = graph.add("Add", &[&x, &places], vec![]);
    if graph.weights().contains_tensor("vision_model.pre_layrnorm.weight") {
        x = graph.layer_norm(&x, "vision_model.pre_layrnorm", width, eps)?;
    }
    for k in 0..config.num_hidden_layers {
        x = layer(graph, &x, None, &format!("vision_model.encoder.layers.{k}"), &shape)?;
    }
    let first = graph.first_row(&x);
    let first = graph.layer_norm(&first, "vision_model.post_layernorm", width, eps)?;
    let projected = graph.multiply(&first, "visual_projection", width, dims)?;
    graph.output(&projected, "image_embeds");
    Ok(projected)
}

fn positions(
    graph: &mut Graph,
    config: &VisionConfig,
    grid: usize,
    resampling: Resampling,
) -> CandleResult<Value> {
    let (width, trained) = (config.hidden_size, config.image_size / config.patch_size);
    let shape = (trained * trained + 1, width);
    let name = "vision_model.embeddings.position_embedding.weight";
    let all = graph.weights().get(shape, name)?.to_device(&Device::Cpu)?;
    let resized = positions::resized(&all, 1, trained, grid, resampling)?;
    let values: Vec<f32> = resized.flatten_all()?.to_vec1()?;
    Ok(graph.floats("positions", &[1, grid * grid + 1, width], &values))
}
