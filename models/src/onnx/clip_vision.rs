//! The graph of CLIP's vision tower: patches, the class token, pre-norm layers and the projection
//! of the class token's state.

use candle_core::{Device, Result};

use super::graph::{Graph, Value};
use super::layer::{Shape, layer};
use super::vision::PIXELS;
use crate::clip::VisionConfig;
use crate::positions::{self, Resampling};

/// Adds the tower with weights under transformers' names. Its output is [batch, dims], of any norm.
/// Positions are interpolated to pictures of `side` pixels.
pub(crate) fn clip_vision(
    graph: &mut Graph,
    config: &VisionConfig,
    dims: usize,
    side: usize,
    resampling: Resampling,
) -> Result<Value> {
    let x = states(graph, config, side, resampling)?;
    let first = graph.first_row(&x);
    let first =
        graph.layer_norm(&first, "vision_model.post_layernorm", config.hidden_size, config.layer_norm_eps)?;
    graph.multiply(&first, "visual_projection", config.hidden_size, dims)
}

/// Adds the transformer. Its output is all tokens' states [batch, 1 + patches, width], with the
/// final norm applied.
pub(crate) fn clip_vision_tokens(
    graph: &mut Graph,
    config: &VisionConfig,
    side: usize,
    resampling: Resampling,
) -> Result<Value> {
    let x = states(graph, config, side, resampling)?;
    graph.layer_norm(&x, "vision_model.post_layernorm", config.hidden_size, config.layer_norm_eps)
}

fn states(graph: &mut Graph, config: &VisionConfig, side: usize, resampling: Resampling) -> Result<Value> {
    let (width, patch, eps) = (config.hidden_size, config.patch_size, config.layer_norm_eps);
    let shape = Shape {
        width,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        activation: config.hidden_act,
        eps,
    };
    let patches = graph.patches(PIXELS, "vision_model.embeddings.patch_embedding", patch, width)?;
    let class = graph.values("vision_model.embeddings.class_embedding", &[width])?;
    let class = graph.floats("class", &[1, 1, width], class);
    let trained = config.image_size / patch;
    let name = "vision_model.embeddings.position_embedding.weight";
    let all = graph.weights().get((trained * trained + 1, width), name)?.to_device(&Device::Cpu)?;
    let places = positions::resized(&all, 1, trained, side / patch, resampling)?;
    let places = graph.tensor("positions", &places.unsqueeze(0)?)?;
    let x = graph.prepended(&class, &patches);
    let mut x = graph.add("Add", &[&x, &places], vec![]);
    if graph.weights().contains_tensor("vision_model.pre_layrnorm.weight") {
        x = graph.layer_norm(&x, "vision_model.pre_layrnorm", width, eps)?;
    }
    for k in 0..config.num_hidden_layers {
        x = layer(graph, &x, None, &format!("vision_model.encoder.layers.{k}"), &shape)?;
    }
    Ok(x)
}
