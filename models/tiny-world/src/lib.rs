//! The tiny world: natural-English prompts of scenes, and where the checkpoints trained on them
//! lie.
//!
//! The grammar exists once, here; the Python training scripts read it through the `tiny-world`
//! binary. A [`Scene`] is a set of slots (shape, colour, background, …) that a picture shows and a
//! prompt says. The same seed gives the same scenes for ever: the generator of random numbers is
//! pinned in this crate. It knows nothing of networks, topics or indexes.

mod grammar;
mod rng;
mod scene;
mod slots;

use std::path::PathBuf;

pub use grammar::{Grammar, Scenes, Split, count};
pub use scene::{Scene, Second};
pub use slots::{Background, Colour, Phrasing, Position, Relation, Shape, Size, Style, Texture};

/// The Stable Diffusion 2 checkpoint, in the diffusers layout.
#[must_use]
pub fn sd2_checkpoint() -> PathBuf {
    checkpoints().join("sd2")
}

/// The CLIP checkpoint, in the transformers layout.
#[must_use]
pub fn clip_checkpoint() -> PathBuf {
    checkpoints().join("clip")
}

fn checkpoints() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("checkpoints")
}
