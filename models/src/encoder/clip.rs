//! CLIP (Radford et al., 2021) from a transformers folder (CLIPModel), and its towers on candle,
//! which OpenCLIP's transformers share.

use candle_core::{Result as CandleResult, Tensor};
use candle_nn::VarBuilder;

use super::architecture::{Architecture, VisionNetwork, unit_rows};
use crate::ModelError;
use crate::clip::{ClipConfig, TextConfig, TextTransformer, VisionConfig, VisionTransformer};
use crate::ops::Linear;
use crate::positions::Resampling;
use crate::texts::{PADDING, TextNetwork};

impl Architecture for ClipConfig {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn dims(&self) -> usize {
        self.projection_dim
    }

    fn side(&self) -> usize {
        self.vision_config.image_size
    }

    fn patch(&self) -> usize {
        self.vision_config.patch_size
    }

    fn text_positions(&self) -> Option<usize> {
        Some(self.text_config.max_position_embeddings)
    }

    fn vision(&self, weights: &VarBuilder<'static>, side: usize) -> CandleResult<Box<dyn VisionNetwork>> {
        let (vision, dims) = (&self.vision_config, self.projection_dim);
        Ok(Box::new(ClipVision::load(weights, vision, dims, side, Resampling::Plain)?))
    }

    fn text(&self, weights: &VarBuilder<'static>) -> CandleResult<Box<dyn TextNetwork>> {
        Ok(Box::new(ClipText::load(weights, &self.text_config, self.projection_dim)?))
    }

    #[cfg(feature = "onnx")]
    fn vision_graph(
        &self,
        weights: &VarBuilder<'static>,
        side: usize,
        int8: bool,
    ) -> CandleResult<(crate::onnx::Graph, crate::onnx::Value)> {
        let mut graph = crate::onnx::Graph::new(weights.clone(), int8);
        let (vision, dims) = (&self.vision_config, self.projection_dim);
        let embeds = crate::onnx::clip_vision(&mut graph, vision, dims, side, Resampling::Plain)?;
        Ok((graph, embeds))
    }

    #[cfg(feature = "onnx")]
    fn onnx_text(
        &self,
        folder: &std::path::Path,
        weights: VarBuilder<'static>,
        engine: crate::engine::Engine,
    ) -> Result<crate::texts::TextWorkers, ModelError> {
        let config = (&self.text_config, self.projection_dim);
        crate::onnx::OnnxClipText::load(folder, config, weights, engine)
    }
}

/// CLIP's vision tower: a vision transformer whose class token is projected into the space of the
/// texts.
#[derive(Debug)]
pub(super) struct ClipVision {
    transformer: VisionTransformer,
    projection: Linear,
}

impl ClipVision {
    /// Loads weights under transformers' names.
    pub(super) fn load(
        weights: &VarBuilder<'static>,
        config: &VisionConfig,
        dims: usize,
        side: usize,
        resampling: Resampling,
    ) -> CandleResult<Self> {
        Ok(Self {
            transformer: VisionTransformer::load(weights.clone(), config, side, resampling)?,
            projection: Linear::load(weights.pp("visual_projection"), config.hidden_size, dims)?,
        })
    }
}

impl VisionNetwork for ClipVision {
    fn embed(&self, pixels: &Tensor) -> CandleResult<Tensor> {
        self.projection.forward(&self.transformer.pooled(pixels)?)
    }
}

/// CLIP's text tower: a causal text transformer whose end token is projected into the space of the
/// pictures.
#[derive(Debug)]
pub(super) struct ClipText {
    transformer: TextTransformer,
    projection: Linear,
}

impl ClipText {
    /// Loads weights under transformers' names.
    pub(super) fn load(weights: &VarBuilder, config: &TextConfig, dims: usize) -> CandleResult<Self> {
        Ok(Self {
            transformer: TextTransformer::load(weights.clone(), config)?,
            projection: Linear::load(weights.pp("text_projection"), config.hidden_size, dims)?,
        })
    }
}

impl TextNetwork for ClipText {
    fn embed(&mut self, ids: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let length = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let padded =
            |ids: &&[u32]| ids.iter().copied().chain(std::iter::repeat(PADDING)).take(length).collect();
        let rows: Vec<Vec<u32>> = ids.iter().map(padded).collect();
        unit_rows(&self.projection.forward(&self.transformer.pooled(&rows)?)?)
    }
}
