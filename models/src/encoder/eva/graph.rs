//! timm's Eva as a graph for ONNX Runtime.

use candle_core::Result;

use super::{EPS, EvaArgs, rotary};
use crate::onnx::{Graph, PIXELS, Value};
use crate::ops::Activation;
use crate::positions::{self, Resampling};

/// Adds the trunk for pictures of `side` pixels with the tensors under `name`. Its output is the
/// features [batch, width].
pub(crate) fn features(graph: &mut Graph, name: &str, args: &EvaArgs, side: usize) -> Result<Value> {
    let (width, patch) = (args.embed_dim, args.patch_size);
    let (trained, grid) = (args.img_size / patch, side / patch);
    let patches = graph.patches(PIXELS, &format!("{name}.patch_embed.proj"), patch, width)?;
    let class = graph.weight(&format!("{name}.cls_token"), &[1, 1, width])?;
    let mut x = graph.prepended(&class, &patches);
    if args.use_abs_pos_emb {
        let shape = (1, trained * trained + 1, width);
        let all = graph.weights().get(shape, &format!("{name}.pos_embed"))?.squeeze(0)?;
        let places = positions::resized(&all, 1, trained, grid, Resampling::Antialias)?;
        let places = graph.tensor("positions", &places.unsqueeze(0)?)?;
        x = graph.add("Add", &[&x, &places], vec![]);
    }
    let rotary_values = args.use_rot_pos_emb.then(|| RotaryValues::new(graph, args, grid)).transpose()?;
    for k in 0..args.depth {
        x = block(graph, &x, &format!("{name}.blocks.{k}"), args, rotary_values.as_ref())?;
    }
    if args.global_pool == "avg" {
        let patches = graph.rows_after_first(&x);
        let mean = graph.mean(&patches, 1);
        return graph.layer_norm(&mean, &format!("{name}.fc_norm"), width, EPS);
    }
    let first = graph.first_row(&x);
    graph.layer_norm(&first, &format!("{name}.norm"), width, EPS)
}

fn block(
    graph: &mut Graph,
    x: &str,
    name: &str,
    args: &EvaArgs,
    rotary_values: Option<&RotaryValues>,
) -> Result<Value> {
    let norm = |graph: &mut Graph, x: &str, part: &str| {
        graph.layer_norm(x, &format!("{name}.{part}"), args.embed_dim, EPS)
    };
    if args.use_post_norm {
        let mixed = attention(graph, x, &format!("{name}.attn"), args, rotary_values)?;
        let mixed = norm(graph, &mixed, "norm1")?;
        let x = graph.add("Add", &[&mixed, x], vec![]);
        let out = mlp(graph, &x, &format!("{name}.mlp"), args)?;
        let out = norm(graph, &out, "norm2")?;
        return Ok(graph.add("Add", &[&out, &x], vec![]));
    }
    let normal = norm(graph, x, "norm1")?;
    let mixed = attention(graph, &normal, &format!("{name}.attn"), args, rotary_values)?;
    let x = graph.add("Add", &[&mixed, x], vec![]);
    let normal = norm(graph, &x, "norm2")?;
    let out = mlp(graph, &normal, &format!("{name}.mlp"), args)?;
    Ok(graph.add("Add", &[&out, &x], vec![]))
}

fn attention(
    graph: &mut Graph,
    x: &str,
    name: &str,
    args: &EvaArgs,
    rotary_values: Option<&RotaryValues>,
) -> Result<Value> {
    let width = args.embed_dim;
    let [mut queries, mut keys, values] = match args.qkv_fused {
        true => fused(graph, x, name, args)?,
        false => {
            let mut part = |part| graph.linear(x, &format!("{name}.{part}"), width, width);
            [part("q_proj")?, part("k_proj")?, part("v_proj")?]
        }
    };
    if let Some(rotary_values) = rotary_values {
        (queries, keys) = (rotary_values.apply(graph, &queries), rotary_values.apply(graph, &keys));
    }
    let mut mixed = graph.attention([&queries, &keys, &values], None, args.num_heads, width)?;
    if args.scale_attn_inner {
        mixed = graph.layer_norm(&mixed, &format!("{name}.norm"), width, EPS)?;
    }
    graph.linear(&mixed, &format!("{name}.proj"), width, width)
}

/// Splits the fused matrix of queries, keys and values. Keys have no bias.
fn fused(graph: &mut Graph, x: &str, name: &str, args: &EvaArgs) -> Result<[Value; 3]> {
    let width = args.embed_dim;
    let all = graph.weights().get((3 * width, width), &format!("{name}.qkv.weight"))?;
    let mut part = |third: usize, part: &str, bias: Option<&str>| {
        let product = graph.product(x, &format!("{name}.{part}"), &all.narrow(0, third * width, width)?)?;
        let Some(bias) = bias.filter(|_| args.qkv_bias) else { return Ok(product) };
        let bias = graph.weight(&format!("{name}.{bias}"), &[width])?;
        Ok::<_, candle_core::Error>(graph.add("Add", &[&product, &bias], vec![]))
    };
    Ok([part(0, "q", Some("q_bias"))?, part(1, "k", None)?, part(2, "v", Some("v_bias"))?])
}

fn mlp(graph: &mut Graph, x: &str, name: &str, args: &EvaArgs) -> Result<Value> {
    let (width, inner) = (args.embed_dim, args.inner());
    let mut x = if args.swiglu_mlp {
        let gate = graph.linear(x, &format!("{name}.fc1_g"), width, inner)?;
        let gate = graph.activation(&gate, Activation::Silu);
        let up = graph.linear(x, &format!("{name}.fc1_x"), width, inner)?;
        graph.add("Mul", &[&gate, &up], vec![])
    } else {
        let up = graph.linear(x, &format!("{name}.fc1"), width, inner)?;
        graph.activation(&up, Activation::Gelu)
    };
    if args.swiglu_mlp || args.scale_mlp {
        x = graph.layer_norm(&x, &format!("{name}.norm"), inner, EPS)?;
    }
    graph.linear(&x, &format!("{name}.fc2"), inner, width)
}

/// The constants of rotary positions: a value is multiplied by a cosine and its neighbour by a
/// sine.
struct RotaryValues {
    cosines: Value,
    sines: Value,
    neighbours: Value,
}

impl RotaryValues {
    fn new(graph: &mut Graph, args: &EvaArgs, grid: usize) -> Result<Self> {
        let (width, tokens) = (args.embed_dim, grid * grid + 1);
        let (cosines, sines) = rotary(graph.weights(), args, grid)?.of_tokens(width);
        let neighbours: Vec<i64> = (0..width as i64).map(|at| at ^ 1).collect();
        Ok(Self {
            cosines: graph.floats("rotary cosines", &[1, tokens, width], cosines),
            sines: graph.floats("rotary sines", &[1, tokens, width], sines),
            neighbours: graph.integers(&neighbours),
        })
    }

    /// Rotates `x` [batch, 1 + positions, width].
    fn apply(&self, graph: &mut Graph, x: &str) -> Value {
        let swapped = graph.gather(x, &self.neighbours, 2);
        let (by_cosine, by_sine) = (
            graph.add("Mul", &[x, &self.cosines], vec![]),
            graph.add("Mul", &[&swapped, &self.sines], vec![]),
        );
        graph.add("Add", &[&by_cosine, &by_sine], vec![])
    }
}
