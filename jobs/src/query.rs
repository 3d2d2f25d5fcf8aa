//! Searches by text, picture, vector or prompt: requests read from JSON, and the networks that
//! embed what they ask by.

mod batch;
mod encoder;
mod requests;

pub use batch::{BatchSearch, LineResult};
pub use encoder::QueryEncoder;
pub use requests::{MAX_REQUEST_BYTES, RequestDefaults};
