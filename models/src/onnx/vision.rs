//! A vision tower on ONNX Runtime, whatever its network.

use std::path::Path;

use super::graph::Graph;
use super::proto::{FLOAT, Size, ValueInfo};
use super::session::{Session, tensor};
use crate::ModelError;
use crate::engine::Engine;
use crate::lanes;
use crate::metrics::normalise;
use crate::picture::Pixels;

/// Pictures in a batch, at most.
const PICTURES: usize = 8;

/// With more bytes of weights pictures go one by one. OpenVINO reads weights where they lie only where the graph leaves no size open;
/// elsewhere it has them copied into a message of protobuf, which holds 2 GiB at most. It is no matter of speed: smaller networks are a
/// little slower one by one in bf16, and a little faster in f32.
const ALONE: usize = (2 << 30) - (1 << 20);

/// The input of a vision tower's graph: pictures [batch, side, side, 3].
pub(crate) const PIXELS: &str = "pixels";

#[derive(Debug)]
pub(crate) struct OnnxVision {
    lanes: Vec<Session>,
    /// Pictures in a batch.
    together: usize,
    dims: usize,
}

impl OnnxVision {
    /// A graph that makes of [`PIXELS`] of a side the vectors `embeds` [batch, dims], on one of the engines of ONNX Runtime.
    pub(crate) fn load(
        folder: &Path,
        mut graph: Graph,
        embeds: &str,
        (side, dims): (usize, usize),
        engine: Engine,
    ) -> Result<Self, ModelError> {
        graph.output(embeds, "image_embeds");
        let alone = graph.bytes() > ALONE;
        let batch = if alone { Size::Fixed(1) } else { Size::Named("batch") };
        let pictures = [batch, Size::Fixed(side), Size::Fixed(side), Size::Fixed(3)];
        let inputs = vec![ValueInfo::new(PIXELS, FLOAT, &pictures)];
        let embeds = ValueInfo::new("image_embeds", FLOAT, &[batch, Size::Fixed(dims)]);
        let model = graph.finish(inputs, vec![embeds]);
        let lanes = Session::lanes(folder, model, engine, |session| session)?;
        Ok(Self { lanes, together: if alone { 1 } else { PICTURES }, dims })
    }

    /// The vectors [n, dims] of preprocessed pictures, unit norm, in their order.
    pub(crate) fn embed(&mut self, pictures: &[&Pixels]) -> Result<Vec<Vec<f32>>, ModelError> {
        let (dims, count) = (self.dims, self.lanes.len());
        let together = self.together.min(pictures.len().div_ceil(count).max(1));
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
    session.run([(PIXELS, pixels)], |embeds| {
        let mut rows: Vec<Vec<f32>> = embeds.chunks_exact(dims).map(<[f32]>::to_vec).collect();
        rows.iter_mut().for_each(|row| normalise(row));
        rows
    })
}
