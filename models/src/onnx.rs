//! Networks on ONNX Runtime. Their graphs are built from the weights, so a model folder needs no
//! .onnx file. They run on ONNX Runtime's own kernels or on OpenVINO, whose libraries are found and
//! loaded at start.

mod bert;
mod clip_text;
mod clip_vision;
mod graph;
mod layer;
mod library;
mod model;
mod proto;
mod session;
mod vision;

pub(crate) use bert::OnnxBert;
pub(crate) use clip_text::OnnxClipText;
pub(crate) use clip_vision::{clip_vision, clip_vision_tokens};
pub(crate) use graph::{CHANNELS_FIRST, CHANNELS_LAST, Graph, Value};
pub(crate) use layer::{Shape, post_norm_attention, post_norm_feed_forward};
pub(crate) use proto::{FLOAT, INT64, Size, ValueInfo};
pub(crate) use session::{Ids, Session, unit_rows};
pub(crate) use vision::{OnnxVision, PIXELS};

use ort::ep::{ExecutionProvider, OpenVINO};

use crate::ModelError;
use crate::engine::Engine;

/// Checks that an engine's libraries are there.
pub(crate) fn available(engine: Engine) -> Result<(), ModelError> {
    library::environment()?;
    let openvino = matches!(engine, Engine::OpenVino | Engine::OpenVinoBf16);
    if openvino && !OpenVINO::is_available().map_err(failed)? {
        return Err(failed("its library here comes without OpenVINO"));
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> ModelError {
    ModelError::OnnxRuntime(error.to_string())
}
