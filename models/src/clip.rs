//! CLIP (Radford et al., 2021) from a transformers folder: a text tower and a vision tower whose vectors can be
//! compared. The same text transformer encodes the prompts of Stable Diffusion.

mod config;
mod embed;
mod encoder;
mod text;
mod vision;

pub use crate::picture::Pixels;
pub(crate) use config::TextConfig;
pub use embed::{ClipText, ClipVision};
pub(crate) use text::TextTransformer;
