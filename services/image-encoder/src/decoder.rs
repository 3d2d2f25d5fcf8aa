//! From encoded pictures to the pixels that the network takes, wherever the bytes came from.

use std::sync::Arc;

use unprompt_models::clip::{ClipVision, Pixels};
use unprompt_models::picture::{self, Limits};
use unprompt_stream::Rejection;

/// Cheap to clone: decoding happens on several threads.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    pub clip: Arc<ClipVision>,
    pub limits: Limits,
}

impl Decoder {
    /// Decodes and preprocesses a picture of at most `max_bytes`.
    pub fn decode(&self, bytes: &[u8], max_bytes: usize) -> Result<Pixels, Rejection> {
        let limits = Limits { max_bytes, ..self.limits };
        let picture = picture::decode(bytes, &limits).map_err(|e| Rejection::new(e.code(), e.to_string()))?;
        Ok(self.clip.preprocess(&picture))
    }
}
