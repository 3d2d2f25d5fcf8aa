//! The image-encoder as a plain type.

mod claim_check;
mod pictures;
mod support;
