//! Fuzz targets for the decoders of untrusted data. Whatever the bytes are, a target ends with a
//! value or an error, and uses no more memory than it declares.

mod targets;

pub use targets::TARGETS;

/// A decoder with its seeds and its memory limit.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Feeds the decoder; panics if it breaks a promise.
    pub run: fn(&[u8]),
    /// Real inputs, from which mutations start.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The memory limit for an input of this many bytes.
    pub memory_bytes: fn(usize) -> u64,
}

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Feeds the decoder and measures its peak memory.
    ///
    /// # Panics
    ///
    /// If the decoder panics, or uses more memory than it may.
    pub fn check(&self, input: &[u8]) {
        let held = allocation_counter::measure(|| (self.run)(input)).bytes_max;
        let allowed = (self.memory_bytes)(input.len());
        let (name, length) = (self.name, input.len());
        assert!(held <= allowed, "{name} held {held} bytes for an input of {length}; it may hold {allowed}");
    }
}
