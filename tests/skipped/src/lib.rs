//! What a test says when it cannot make its claim on this machine: a server, a program or a right
//! is missing.

use std::io::Write as _;

/// Says on stderr that the running test is skipped, and why.
///
/// It writes to stderr itself: what `eprintln!` prints in a test that passes is captured, and
/// nobody reads it.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // A test does not fail because its stderr is closed.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}
