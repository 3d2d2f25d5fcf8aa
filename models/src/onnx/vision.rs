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

/// Pictures in a batch.
const PICTURES: usize = 8;

/// The input of a vision tower's graph: pictures [batch, side, side, 3].
pub(crate) const PIXELS: &str = "pixels";

#[derive(Debug)]
pub(crate) struct OnnxVision {
    lanes: Vec<Session>,
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
        let pictures = [Size::Named("batch"), Size::Fixed(side), Size::Fixed(side), Size::Fixed(3)];
        let inputs = vec![ValueInfo::new(PIXELS, FLOAT, &pictures)];
        let embeds = ValueInfo::new("image_embeds", FLOAT, &[Size::Named("batch"), Size::Fixed(dims)]);
        let model = graph.finish(inputs, vec![embeds]);
        Ok(Self { lanes: Session::lanes(folder, model, engine, |session| session)?, dims })
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
    session.run([(PIXELS, pixels)], |embeds| {
        let mut rows: Vec<Vec<f32>> = embeds.chunks_exact(dims).map(<[f32]>::to_vec).collect();
        rows.iter_mut().for_each(|row| normalise(row));
        rows
    })
}
