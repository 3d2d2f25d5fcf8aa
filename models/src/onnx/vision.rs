//! A vision tower of any network on ONNX Runtime.

use super::graph::Graph;
use super::model::MESSAGE;
use super::proto::{FLOAT, Size, ValueInfo};
use super::session::{Session, tensor, unit_rows};
use crate::ModelError;
use crate::engine::Engine;
use crate::picture::Pixels;
use crate::workers;

/// Maximum number of pictures in a batch.
const PICTURES: usize = 8;

/// The size in bytes above which OpenVINO gets one picture at a time. OpenVINO reads weights from
/// our memory only if all sizes in the graph are fixed, and copies them into a message otherwise.
/// One picture at a time takes two thirds of the memory and no more time in f32; in bf16 a batch is
/// a quarter faster. Weights larger than [`MESSAGE`] require it on every engine.
const ROOMY: usize = 512 << 20;

/// The input of a vision tower's graph: pictures [batch, side, side, 3].
pub(crate) const PIXELS: &str = "pixels";

#[derive(Debug)]
pub(crate) struct OnnxVision {
    workers: Vec<Session>,
    /// Maximum number of pictures in a batch of this network.
    together: usize,
    dims: usize,
}

impl OnnxVision {
    /// Loads a graph that maps [`PIXELS`] of a side to the vectors `embeds` [batch, dims] on one of
    /// ONNX Runtime's engines.
    pub(crate) fn load(
        graph: Graph,
        embeds: &str,
        sizes: (usize, usize),
        engine: Engine,
    ) -> Result<Self, ModelError> {
        let alone = graph.bytes() > MESSAGE || (engine == Engine::OpenVino && graph.bytes() > ROOMY);
        Self::load_for(graph, embeds, sizes, engine, alone)
    }

    /// Loads the graph for one picture (`alone`) or several pictures at a time.
    fn load_for(
        mut graph: Graph,
        embeds: &str,
        (side, dims): (usize, usize),
        engine: Engine,
        alone: bool,
    ) -> Result<Self, ModelError> {
        graph.output(embeds, "image_embeds");
        let batch = if alone { Size::Fixed(1) } else { Size::Named("batch") };
        let pictures = [batch, Size::Fixed(side), Size::Fixed(side), Size::Fixed(3)];
        let inputs = vec![ValueInfo::new(PIXELS, FLOAT, &pictures)];
        let embeds = ValueInfo::new("image_embeds", FLOAT, &[batch, Size::Fixed(dims)]);
        let model = graph.finish(inputs, vec![embeds]);
        let workers = Session::workers(model, engine, |session| session)?;
        Ok(Self { workers, together: if alone { 1 } else { PICTURES }, dims })
    }

    /// Returns the vectors [n, dims] of preprocessed pictures, unit norm, in order.
    pub(crate) fn embed(&mut self, pictures: &[&Pixels]) -> Result<Vec<Vec<f32>>, ModelError> {
        let (dims, count) = (self.dims, self.workers.len());
        let together = self.together.min(pictures.len().div_ceil(count).max(1));
        let batches: Vec<&[&Pixels]> = pictures.chunks(together).collect();
        let done = workers::share(&mut self.workers, batches.len(), |session, at| {
            embed_batch(session, batches[at], dims)
        })?;
        Ok(done.into_iter().flatten().collect())
    }
}

fn embed_batch(session: &mut Session, batch: &[&Pixels], dims: usize) -> Result<Vec<Vec<f32>>, ModelError> {
    let Some(first) = batch.first() else { return Ok(Vec::new()) };
    let values: Vec<f32> = batch.iter().flat_map(|pixels| &pixels.values).copied().collect();
    let pixels = tensor([batch.len(), first.height, first.width, 3], values)?;
    session.run([(PIXELS, pixels)], |embeds| unit_rows(embeds, dims))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use candle_nn::VarBuilder;

    use super::*;
    use crate::metrics::cosine;
    use crate::ops::testing::random;

    const SIDE: usize = 20;
    const INNER: usize = 4000;
    const DIMS: usize = 2500;

    /// Two layers of 19 and 40 MB: OpenVINO reads weights of 32 MB or more from our memory if it
    /// can.
    fn weights() -> VarBuilder<'static> {
        let tensors = [("up", [INNER, SIDE * SIDE * 3], 1), ("down", [DIMS, INNER], 2)];
        let tensors = tensors.map(|(name, shape, seed)| (format!("{name}.weight"), random(&shape, seed)));
        VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu)
    }

    fn graph(weights: &VarBuilder<'static>) -> (Graph, String) {
        let mut graph = Graph::new(weights.clone(), false);
        let flat = graph.integers(&[-1, (SIDE * SIDE * 3) as i64]);
        let flat = graph.add("Reshape", &[PIXELS, &flat], vec![]);
        let up = graph.linear(&flat, "up", SIDE * SIDE * 3, INNER).unwrap();
        let embeds = graph.linear(&up, "down", INNER, DIMS).unwrap();
        (graph, embeds)
    }

    #[test]
    fn single_and_batched_pictures_give_the_exact_vectors() {
        let weights = weights();
        let pixels: Vec<f32> = random(&[11, SIDE * SIDE * 3], 3).flatten_all().unwrap().to_vec1().unwrap();
        let matrix = |name: &str, shape| weights.get(shape, name).unwrap().t().unwrap();
        let exact = Tensor::from_slice(&pixels, (11, SIDE * SIDE * 3), &Device::Cpu).unwrap();
        let exact = exact.matmul(&matrix("up.weight", (INNER, SIDE * SIDE * 3))).unwrap();
        let exact = exact.matmul(&matrix("down.weight", (DIMS, INNER))).unwrap().to_vec2::<f32>().unwrap();
        let pictures: Vec<Pixels> = pixels
            .chunks_exact(SIDE * SIDE * 3)
            .map(|values| Pixels { values: values.to_vec(), height: SIDE, width: SIDE })
            .collect();
        let pictures: Vec<&Pixels> = pictures.iter().collect();
        let openvino = cfg!(all(target_os = "linux", target_arch = "x86_64"));
        for engine in [Engine::Onnx, Engine::OpenVino].into_iter().take(1 + usize::from(openvino)) {
            for alone in [true, false] {
                let (graph, embeds) = graph(&weights);
                let sizes = (SIDE, DIMS);
                let loaded = OnnxVision::load_for(graph, &embeds, sizes, engine, alone);
                let vectors = loaded.unwrap().embed(&pictures).unwrap();
                assert_eq!(vectors.len(), exact.len());
                for (vector, exact) in vectors.iter().zip(&exact) {
                    assert!(cosine(vector, exact) > 0.99999, "{engine} {alone}");
                }
            }
        }
    }
}
