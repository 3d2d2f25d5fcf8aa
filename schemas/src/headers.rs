//! A record's headers, whatever they mean.

/// Headers in their order. A name may occur more than once.
pub type Headers = Vec<(String, Vec<u8>)>;
