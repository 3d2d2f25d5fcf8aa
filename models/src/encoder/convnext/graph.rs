//! ConvNeXt as a graph for ONNX Runtime.

use candle_core::Result;

use super::ConvNextArgs;
use crate::onnx::{CHANNELS_FIRST, CHANNELS_LAST, Graph, PIXELS, Value};
use crate::ops::Activation;

/// Adds the trunk with the tensors under `name`. Its output is the features [batch, width].
pub(crate) fn features(graph: &mut Graph, name: &str, args: &ConvNextArgs) -> Result<Value> {
    let (first, patch, eps) = (args.dims[0], args.patch_size, args.norm_eps);
    let x = convolve(graph, PIXELS, &format!("{name}.stem.0"), [first, 3, patch, patch], (patch, 0), 1)?;
    let mut x = graph.layer_norm(&x, &format!("{name}.stem.1"), first, eps)?;
    for (k, (&width, &depth)) in args.dims.iter().zip(&args.depths).enumerate() {
        let stage = format!("{name}.stages.{k}");
        if k > 0 {
            let before = args.dims[k - 1];
            let normal = graph.layer_norm(&x, &format!("{stage}.downsample.0"), before, eps)?;
            x = convolve(graph, &normal, &format!("{stage}.downsample.1"), [width, before, 2, 2], (2, 0), 1)?;
        }
        for at in 0..depth {
            x = block(graph, &x, &format!("{stage}.blocks.{at}"), args, width)?;
        }
    }
    let rows = graph.mean(&x, 1);
    let mean = graph.mean(&rows, 1);
    graph.layer_norm(&mean, &format!("{name}.head.norm"), args.width(), eps)
}

/// Adds a convolution over [batch, height, width, channels].
fn convolve(
    graph: &mut Graph,
    x: &str,
    name: &str,
    shape: [usize; 4],
    step_and_padding: (usize, usize),
    groups: usize,
) -> Result<Value> {
    let x = graph.transpose(x, CHANNELS_FIRST);
    let x = graph.convolve(&x, name, shape, step_and_padding, groups)?;
    Ok(graph.transpose(&x, CHANNELS_LAST))
}

fn block(graph: &mut Graph, x: &str, name: &str, args: &ConvNextArgs, width: usize) -> Result<Value> {
    let size = args.kernel_sizes;
    let depthwise = format!("{name}.conv_dw");
    let mixed = convolve(graph, x, &depthwise, [width, 1, size, size], (1, size / 2), width)?;
    let normal = graph.layer_norm(&mixed, &format!("{name}.norm"), width, args.norm_eps)?;
    let up = graph.linear(&normal, &format!("{name}.mlp.fc1"), width, 4 * width)?;
    let up = graph.activation(&up, Activation::Gelu);
    let mut out = graph.linear(&up, &format!("{name}.mlp.fc2"), 4 * width, width)?;
    if args.ls_init_value.is_some() {
        let scale = graph.weight(&format!("{name}.gamma"), &[width])?;
        out = graph.add("Mul", &[&out, &scale], vec![]);
    }
    Ok(graph.add("Add", &[&out, x], vec![]))
}
