//! The decoders that read what strangers send, as fuzz targets: whatever the bytes are, a target ends in a value or an error, and
//! takes no more memory than it promises.

mod targets;

pub use targets::TARGETS;

/// A decoder, what it may be fed to begin with, and how much memory it may take.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Feeds it; it panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Real inputs, which mutations begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The most memory for so many bytes of input.
    pub memory_bytes: fn(usize) -> u64,
}

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Feeds it, and counts the memory that it holds at once.
    ///
    /// # Panics
    ///
    /// Where it panics itself, or takes more than it may.
    pub fn check(&self, input: &[u8]) {
        let held = allocation_counter::measure(|| (self.run)(input)).bytes_max;
        let allowed = (self.memory_bytes)(input.len());
        let (name, length) = (self.name, input.len());
        assert!(held <= allowed, "{name} held {held} bytes for an input of {length}; it may hold {allowed}");
    }
}
