//! The engines that run a network, by name. It must not know a network or an engine's library.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::ModelError;
use crate::named::named;

/// The engine that runs a network: MiniLM, a text tower or a vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", parse_err_ty = ModelError, parse_err_fn = Self::unknown)]
pub enum Engine {
    /// The first of OpenVINO in f32, ONNX Runtime and candle that loads and computes the right
    /// vectors. On a GPU candle comes first, since only candle uses it; ONNX Runtime comes first
    /// for folders of more than 2 GiB of f32 weights. The log and `unprompt doctor` name the engine
    /// and the reason.
    #[default]
    Auto,
    /// OpenVINO in bf16, for processors that multiply bf16. Parity requires MiniLM's cosine to the
    /// reference to be at least 0.9995.
    #[strum(serialize = "openvino-bf16")]
    OpenVinoBf16,
    /// OpenVINO in f32.
    #[strum(serialize = "openvino")]
    OpenVino,
    /// ONNX Runtime's own kernels in f32.
    Onnx,
    /// ONNX Runtime with 8-bit weights and activations. As measured, it costs MiniLM about 0.7 % of
    /// its cosine to f32. A test requires a mean cosine of at least 0.985.
    Int8,
    /// candle in f32, which needs only the weights.
    Candle,
}

named!(Engine, "engine");
