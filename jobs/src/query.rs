//! Searches by text, picture, vector or prompt: parses requests from JSON, and embeds their texts
//! and pictures.

mod batch;
mod encoder;
mod requests;

pub use batch::{BatchSearch, LineResult};
pub use encoder::QueryEncoder;
pub use requests::{MAX_REQUEST_BYTES, RequestDefaults};
