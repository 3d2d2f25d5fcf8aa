//! The transformers of CLIP (Radford et al., 2021): a text transformer, which also encodes the
//! prompts of Stable Diffusion, and a vision transformer, which other networks share.

mod config;
mod encoder;
mod text;
mod vision;

pub(crate) use config::{ClipConfig, TextConfig, VisionConfig, check_heads};
pub(crate) use text::TextTransformer;
#[cfg(feature = "onnx")]
pub(crate) use text::end_position;
pub(crate) use vision::VisionTransformer;
