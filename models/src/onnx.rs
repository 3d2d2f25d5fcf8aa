//! MiniLM and CLIP's towers on ONNX Runtime: their graphs are built here from the weights, so a model folder needs no
//! .onnx file, and run by ONNX Runtime's own kernels or by OpenVINO, whose libraries are found and loaded at start.

mod bert;
mod clip_text;
mod clip_vision;
mod graph;
mod layer;
mod library;
mod proto;
mod session;

pub(crate) use bert::OnnxBert;
pub(crate) use clip_text::OnnxClipText;
pub(crate) use clip_vision::OnnxClipVision;

use crate::ModelError;

fn failed(error: impl std::fmt::Display) -> ModelError {
    ModelError::OnnxRuntime(error.to_string())
}
