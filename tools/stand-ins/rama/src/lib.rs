//! Stands in for rama. Of its HTTP stack, networking and user agents nisshi uses only the `Service`
//! trait and what belongs to it (rama-core, which is the real one), and a TCP stream with
//! extensions.

pub use rama_core::{Layer, Service, ServiceInput, error, extensions, layer, matcher, service};

pub mod tcp;
