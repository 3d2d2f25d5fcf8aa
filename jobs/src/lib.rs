//! Jobs that run once and end: libraries for the command line and for a gateway.
//!
//! A job knows what it reads and writes; it must not know flags, or how a result is printed.

mod progress;

pub use progress::{PROGRESS_TARGET, Progress};
