//! The projection after a trunk as a graph for ONNX Runtime.

use candle_core::Result;

use super::Projection;
use crate::onnx::{Graph, Value};
use crate::ops::Activation;

/// Projects `features` [batch, width] into the space of the texts, [batch, dims].
pub(crate) fn projected(
    graph: &mut Graph,
    features: &str,
    projection: Projection,
    width: usize,
    dims: usize,
) -> Result<Value> {
    match projection {
        Projection::Classifier => graph.linear(features, "visual.trunk.head", width, dims),
        Projection::Linear => graph.linear(features, "visual.head.proj", width, dims),
        Projection::Mlp => {
            let inner = graph.linear(features, "visual.head.mlp.fc1", width, 2 * dims)?;
            let inner = graph.activation(&inner, Activation::Gelu);
            graph.linear(&inner, "visual.head.mlp.fc2", 2 * dims, dims)
        }
    }
}
