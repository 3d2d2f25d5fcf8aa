//! The networks and the arithmetic of Unprompt: MiniLM, CLIP, Stable Diffusion 2, picture preprocessing, heads,
//! blend and calibration. It reads model folders in the layouts the field uses (diffusers, transformers,
//! sentence-transformers) and knows nothing of Kafka, Qdrant or Tokio.

pub mod blend;
pub mod calibration;
mod device;
pub mod error;
pub mod files;
pub mod head;
pub mod metrics;

pub use error::ModelError;
pub use files::Revision;
