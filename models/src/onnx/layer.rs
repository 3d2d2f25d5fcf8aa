//! The pre-norm layer that both towers of CLIP are made of, as a part of an ONNX graph.

use super::graph::{Graph, Value};
use crate::ops::Activation;

/// The shape of a tower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub activation: Activation,
    pub eps: f64,
}

/// The layer `name` of transformers' CLIPEncoder.
pub(super) fn layer(
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
