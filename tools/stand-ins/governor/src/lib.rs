//! Stands in for governor: nisshi-storage converts its error but limits nothing.

/// A quota smaller than a single request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InsufficientCapacity(pub u32);

impl std::fmt::Display for InsufficientCapacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the limit is {}", self.0)
    }
}

impl std::error::Error for InsufficientCapacity {}
