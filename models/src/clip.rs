//! CLIP (Radford et al., 2021) from a transformers folder: a text tower and a vision tower whose vectors can be
//! compared. The same text transformer encodes the prompts of Stable Diffusion.

mod config;
mod embed;
mod embed_text;
mod encoder;
mod text;
mod vision;

pub use crate::picture::Pixels;
#[cfg(feature = "onnx")]
pub(crate) use config::ClipConfig;
pub(crate) use config::TextConfig;
pub use config::dims;
pub use embed::ClipVision;
pub use embed_text::ClipText;
#[cfg(feature = "onnx")]
pub(crate) use embed_text::PADDING;
pub(crate) use text::TextTransformer;
#[cfg(feature = "onnx")]
pub(crate) use text::end_position;
