//! Pictures: decoding users' files within limits, and preprocessing for a vision network.

mod decode;
#[cfg(test)]
mod memory;
mod preprocess;
mod resize;
#[cfg(test)]
mod webp_of_groups;
mod webp_tables;

pub use decode::{Limits, PictureError, decode};
pub use image::RgbImage;
pub(crate) use preprocess::TorchvisionSettings;
pub use preprocess::{Pixels, Preprocessor};
pub(crate) use resize::resize_to;
