//! The networks that embed the texts and pictures of searches. Each is loaded on first use.

use std::fmt::Display;

use unprompt_index::{Encode, IndexError, IndexInfo, Space};
use unprompt_models::encoder::{TextTower, VisionTower};
use unprompt_models::minilm::MiniLm;
use unprompt_models::picture::{self, Limits};

use crate::{JobError, ModelFolders};

/// Embeds texts and pictures for searches.
#[derive(Debug)]
pub struct QueryEncoder {
    models: ModelFolders,
    /// The limits for pictures.
    limits: Limits,
    minilm: Option<MiniLm>,
    clip_text: Option<TextTower>,
    clip_vision: Option<VisionTower>,
}

impl QueryEncoder {
    pub fn new(models: ModelFolders, limits: Limits) -> Self {
        Self { models, limits, minilm: None, clip_text: None, clip_vision: None }
    }

    /// Refuses an index that was filled by other models than those used so far, because
    /// similarities would be meaningless.
    ///
    /// # Errors
    /// [`JobError::OtherModel`].
    pub fn check_against(&self, index: &IndexInfo) -> Result<(), JobError> {
        let minilm = self.minilm.as_ref().map(MiniLm::revision);
        let clip = self.clip_text.as_ref().map(TextTower::revision);
        let clip = clip.or(self.clip_vision.as_ref().map(VisionTower::revision));
        for (key, ours, theirs) in [("minilm", minilm, &index.minilm), ("clip", clip, &index.encoder)] {
            let Some((ours, theirs)) = ours.map(ToString::to_string).zip(theirs.clone()) else { continue };
            if ours != theirs {
                return Err(JobError::OtherModel { key, ours, theirs });
            }
        }
        Ok(())
    }
}

/// Returns the network in `slot` and loads it on first use.
fn loaded<T>(slot: &mut Option<T>, load: impl FnOnce() -> Result<T, JobError>) -> Result<&mut T, IndexError> {
    match slot {
        Some(network) => Ok(network),
        None => Ok(slot.insert(load().map_err(failed)?)),
    }
}

impl Encode for QueryEncoder {
    fn texts(&mut self, using: Space, texts: &[&str]) -> Result<Vec<Vec<f32>>, IndexError> {
        let models = &self.models;
        match using {
            Space::MiniLm => loaded(&mut self.minilm, || models.load_minilm())?.embed(texts),
            Space::Clip => loaded(&mut self.clip_text, || models.load_clip_text())?.embed(texts),
        }
        .map_err(failed)
    }

    fn picture(&mut self, bytes: &[u8]) -> Result<Vec<f32>, IndexError> {
        let unreadable = |error| IndexError::InvalidQuery { reason: format!("its picture: {error}") };
        let picture = picture::decode(bytes, &self.limits).map_err(unreadable)?;
        let models = &self.models;
        let clip = loaded(&mut self.clip_vision, || models.load_clip_vision())?;
        let pixels = clip.preprocess(&picture);
        let vector = clip.embed(&[&pixels]).map_err(failed)?.pop();
        vector.ok_or_else(|| failed("the encoder returned no vector"))
    }
}

fn failed(error: impl Display) -> IndexError {
    IndexError::Encoder { reason: error.to_string() }
}
