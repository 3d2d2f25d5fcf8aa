//! The tiny world: natural-English prompts of scenes, and the paths of the checkpoints trained on
//! them.
//!
//! The grammar is only implemented here; the Python training scripts use it through the
//! `tiny-world` binary. A [`Scene`] is a set of slots (shape, colour, background, …) that a picture
//! shows and a prompt describes. A seed always gives the same scenes, because the random number
//! generator is part of this crate. This crate must not know networks, topics or indexes.

mod grammar;
mod rng;
mod scene;
mod slots;

use std::path::PathBuf;

pub use grammar::{Grammar, Scenes, Split, count};
pub use scene::{Scene, Second};
pub use slots::{Background, Colour, Phrasing, Position, Relation, Shape, Size, Style, Texture};

/// The path of the Stable Diffusion 2 checkpoint, in the diffusers layout.
#[must_use]
pub fn sd2_checkpoint() -> PathBuf {
    checkpoints().join("sd2")
}

/// The path of the CLIP checkpoint, in the transformers layout.
#[must_use]
pub fn clip_checkpoint() -> PathBuf {
    checkpoints().join("clip")
}

fn checkpoints() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("checkpoints")
}
