//! The networks and the arithmetic of Unprompt: MiniLM, image encoders, Stable Diffusion 2, picture
//! preprocessing, heads and the prediction recipe. It reads model folders in the common layouts
//! (diffusers, transformers, sentence-transformers) and must not know Kafka, Qdrant or Tokio.

mod batches;
pub mod blend;
pub mod calibration;
mod clip;
mod device;
pub mod encoder;
mod engine;
mod engine_selection;
pub mod error;
pub mod files;
#[cfg(test)]
mod full_size;
pub mod head;
pub mod metrics;
pub mod minilm;
mod named;
#[cfg(feature = "onnx")]
mod onnx;
mod ops;
pub mod picture;
pub mod places;
mod positions;
pub mod recipe;
mod self_check;
pub mod settings;
pub mod stable_diffusion;
mod texts;
pub mod token_count;
mod tokenizer;
mod weights;
mod workers;

pub use error::ModelError;
pub use files::Revision;
