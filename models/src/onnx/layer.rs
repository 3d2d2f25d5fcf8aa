//! Transformer layers that several networks share, as parts of an ONNX graph.

use super::graph::{Graph, Value};
use crate::ops::Activation;

/// The shape of a tower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub activation: Activation,
    pub eps: f64,
}

/// Adds the pre-norm layer `name` of transformers' CLIPEncoder.
pub(crate) fn layer(
    graph: &mut Graph,
    x: &str,
    mask: Option<&str>,
    name: &str,
    shape: &Shape,
) -> candle_core::Result<Value> {
    let (width, inner, eps) = (shape.width, shape.inner, shape.eps);
    let normal = graph.layer_norm(x, &format!("{name}.layer_norm1"), width, eps)?;
    let mut projection = |part| graph.linear(&normal, &format!("{name}.self_attn.{part}"), width, width);
    let (queries, keys, values) = (projection("q_proj")?, projection("k_proj")?, projection("v_proj")?);
    let mixed = graph.attention([&queries, &keys, &values], mask, shape.heads, width)?;
    let out = graph.linear(&mixed, &format!("{name}.self_attn.out_proj"), width, width)?;
    let x = graph.add("Add", &[&out, x], vec![]);
    let normal = graph.layer_norm(&x, &format!("{name}.layer_norm2"), width, eps)?;
    let up = graph.linear(&normal, &format!("{name}.mlp.fc1"), width, inner)?;
    let up = graph.activation(&up, shape.activation);
    let down = graph.linear(&up, &format!("{name}.mlp.fc2"), inner, width)?;
    Ok(graph.add("Add", &[&down, &x], vec![]))
}

/// Adds BERT's post-norm attention to `context`, with a mask that is added to the scores. `name`
/// has the queries, keys and values, `out` the output layer.
pub(crate) fn post_norm_attention(
    graph: &mut Graph,
    x: &str,
    (context, context_width): (&str, usize),
    mask: Option<&str>,
    (name, out): (&str, &str),
    shape: &Shape,
) -> candle_core::Result<Value> {
    let (width, eps) = (shape.width, shape.eps);
    let queries = graph.linear(x, &format!("{name}.query"), width, width)?;
    let keys = graph.linear(context, &format!("{name}.key"), context_width, width)?;
    let values = graph.linear(context, &format!("{name}.value"), context_width, width)?;
    let mixed = graph.attention([&queries, &keys, &values], mask, shape.heads, width)?;
    let mixed = graph.linear(&mixed, &format!("{out}.dense"), width, width)?;
    let sum = graph.add("Add", &[&mixed, x], vec![]);
    graph.layer_norm(&sum, &format!("{out}.LayerNorm"), width, eps)
}

/// Adds BERT's post-norm feed-forward layers `up` and `down`.
pub(crate) fn post_norm_feed_forward(
    graph: &mut Graph,
    x: &str,
    (up, down): (&str, &str),
    shape: &Shape,
) -> candle_core::Result<Value> {
    let inner = graph.linear(x, &format!("{up}.dense"), shape.width, shape.inner)?;
    let inner = graph.activation(&inner, shape.activation);
    let out = graph.linear(&inner, &format!("{down}.dense"), shape.inner, shape.width)?;
    let sum = graph.add("Add", &[&out, x], vec![]);
    graph.layer_norm(&sum, &format!("{down}.LayerNorm"), shape.width, shape.eps)
}
