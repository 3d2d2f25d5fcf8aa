//! Jobs that run once and end: libraries for the command line and for a gateway.
//!
//! A job knows what it reads and writes; it must not know flags, or how a result is printed.
//! Messages to the user during a job are logged under [`PROGRESS_TARGET`].

mod blocking;
mod corpus;
mod error;
pub mod evaluation;
pub mod generation;
pub mod import;
pub mod index_build;
mod model_folders;
mod progress;
pub mod query;
mod resumable_run;

pub use corpus::open_corpus;
pub use error::JobError;
pub use model_folders::{ModelFolders, model_store};
pub use progress::{PROGRESS_TARGET, Progress};
pub use resumable_run::{CheckpointSettings, Chunk, ChunkEnd, ResumableRun, RunSettings};
