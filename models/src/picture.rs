//! Pictures: decoding users' files within limits, and preprocessing for a vision network.

mod decode;
mod preprocess;
mod resize;

pub use decode::{Limits, PictureError, decode, pixels};
pub use image::RgbImage;
pub(crate) use preprocess::TorchvisionSettings;
pub use preprocess::{Pixels, Preprocessor};
pub(crate) use resize::resize_to;
