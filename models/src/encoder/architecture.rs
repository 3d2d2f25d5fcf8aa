//! The trait that the configuration of every image encoder implements. It must not know a
//! particular network.

use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;

use crate::ModelError;
use crate::metrics::normalise;
use crate::picture::Preprocessor;
use crate::texts::TextNetwork;
use crate::weights;

/// A vision tower: maps preprocessed pictures [batch, height, width, 3] to vectors [batch, dims] of
/// any norm.
pub(super) trait VisionNetwork: std::fmt::Debug + Send + Sync {
    fn embed(&self, pixels: &Tensor) -> CandleResult<Tensor>;
}

/// An image encoder by its configuration: the sizes of its towers, and how each is built from the
/// weights.
pub(super) trait Architecture: std::fmt::Debug {
    /// The name in logs.
    fn name(&self) -> &'static str;

    /// Dimensions of the vectors of both towers.
    fn dims(&self) -> usize;

    /// The side in pixels of the pictures that the network was trained on.
    fn side(&self) -> usize;

    /// A picture's side must be a multiple of this number of pixels.
    fn patch(&self) -> usize;

    /// The maximum number of tokens of a text; None if the folder has no text tower.
    fn text_positions(&self) -> Option<usize>;

    /// Names of the weight file, in order of preference.
    fn weight_names(&self) -> &'static [&'static str] {
        &weights::NAMES
    }

    /// The preprocessing of pictures for the trained side.
    fn preprocessor(&self, folder: &Path) -> Result<Preprocessor, ModelError> {
        Preprocessor::load(&folder.join("preprocessor_config.json"))
    }

    /// The vision tower on candle, for pictures of `side` pixels.
    fn vision(&self, weights: &VarBuilder<'static>, side: usize) -> CandleResult<Box<dyn VisionNetwork>>;

    /// The text tower on candle.
    fn text(&self, weights: &VarBuilder<'static>) -> CandleResult<Box<dyn TextNetwork>>;

    /// The vision tower for pictures of `side` pixels as a graph for ONNX Runtime, and the name of
    /// the graph's output.
    #[cfg(feature = "onnx")]
    fn vision_graph(
        &self,
        weights: &VarBuilder<'static>,
        side: usize,
        int8: bool,
    ) -> CandleResult<(crate::onnx::Graph, crate::onnx::Value)>;

    /// The text tower on one of ONNX Runtime's engines.
    #[cfg(feature = "onnx")]
    fn onnx_text(
        &self,
        folder: &Path,
        weights: VarBuilder<'static>,
        engine: crate::engine::Engine,
    ) -> Result<crate::texts::TextWorkers, ModelError>;
}

impl dyn Architecture + '_ {
    /// The folder's weights. A tensor is read when a layer asks for it.
    pub(super) fn weights(
        &self,
        folder: &Path,
        dtype: DType,
        device: &Device,
    ) -> Result<VarBuilder<'static>, ModelError> {
        weights::load_named(folder, self.weight_names(), dtype, device)
    }

    /// The size of all towers' weights in f32, in bytes.
    pub(super) fn bytes(&self, folder: &Path) -> Result<u64, ModelError> {
        Ok(4 * weights::count(folder, self.weight_names())?)
    }
}

/// Returns the rows of a tensor [n, dims] in f32, normalised to unit length.
pub(super) fn unit_rows(rows: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut rows = rows.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    rows.iter_mut().for_each(|row| normalise(row));
    Ok(rows)
}
