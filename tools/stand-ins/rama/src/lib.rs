//! Stands in for rama: of its HTTP stack, its networks and its user agents nisshi uses the `Service` trait with what belongs to it
//! (rama-core, which is the real one), and a TCP stream that bears extensions.

pub use rama_core::{Layer, Service, ServiceInput, error, extensions, layer, matcher, service};

pub mod tcp;
