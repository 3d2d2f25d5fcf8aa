//! The networks that make vectors of texts and pictures, each loaded when it is first needed.

use std::fmt::Display;

use anyhow::{Context as _, ensure};
use unprompt_index::{Encode, IndexError, IndexInfo, Space};
use unprompt_models::encoder::{TextTower, VisionTower};
use unprompt_models::minilm::MiniLm;
use unprompt_models::picture;

use crate::context::Context;

pub struct Models<'a> {
    context: &'a Context,
    minilm: Option<MiniLm>,
    clip_text: Option<TextTower>,
    clip_vision: Option<VisionTower>,
}

impl<'a> Models<'a> {
    pub fn new(context: &'a Context) -> Self {
        Self { context, minilm: None, clip_text: None, clip_vision: None }
    }

    /// Refuses an index that was filled by other models than those used so far: similarities would mean nothing.
    pub fn check_against(&self, index: &IndexInfo) -> anyhow::Result<()> {
        let minilm = self.minilm.as_ref().map(MiniLm::revision);
        let clip = self.clip_text.as_ref().map(TextTower::revision);
        let clip = clip.or(self.clip_vision.as_ref().map(VisionTower::revision));
        for (name, ours, theirs) in [("minilm", minilm, &index.minilm), ("clip", clip, &index.encoder)] {
            let Some((ours, theirs)) = ours.map(ToString::to_string).zip(theirs.as_ref()) else { continue };
            ensure!(
                ours == *theirs,
                "the index holds vectors of {theirs}, and [models] {name} is {ours}: configure the one it was filled with"
            );
        }
        Ok(())
    }

    fn load_minilm(&mut self) -> anyhow::Result<&mut MiniLm> {
        if self.minilm.is_none() {
            self.minilm = Some(MiniLm::load(&self.context.minilm()?, self.context.config.models.engine)?);
        }
        self.minilm.as_mut().context("MiniLM is not loaded")
    }

    fn load_clip_text(&mut self) -> anyhow::Result<&TextTower> {
        if self.clip_text.is_none() {
            self.clip_text = Some(TextTower::load(&self.context.clip()?, self.context.config.models.engine)?);
        }
        self.clip_text.as_ref().context("the text tower is not loaded")
    }

    fn load_clip_vision(&mut self) -> anyhow::Result<&VisionTower> {
        if self.clip_vision.is_none() {
            self.clip_vision = Some(self.context.clip_vision()?);
        }
        self.clip_vision.as_ref().context("the vision tower is not loaded")
    }
}

impl Encode for Models<'_> {
    fn texts(&mut self, using: Space, texts: &[&str]) -> Result<Vec<Vec<f32>>, IndexError> {
        match using {
            Space::MiniLm => self.load_minilm().map_err(failed)?.embed(texts).map_err(failed),
            Space::Clip => self.load_clip_text().map_err(failed)?.embed(texts).map_err(failed),
        }
    }

    fn picture(&mut self, bytes: &[u8]) -> Result<Vec<f32>, IndexError> {
        let unreadable = |error| IndexError::InvalidQuery { reason: format!("its picture: {error}") };
        let picture = picture::decode(bytes, &self.context.config.images).map_err(unreadable)?;
        let clip = self.load_clip_vision().map_err(failed)?;
        let pixels = clip.preprocess(&picture);
        let vector = clip.embed(&[&pixels]).map_err(failed)?.pop();
        vector.ok_or_else(|| failed("the encoder returned no vector"))
    }
}

fn failed(error: impl Display) -> IndexError {
    IndexError::Encoder { reason: format!("{error:#}") }
}
