//! The message of a test that cannot run on this machine: a server, a program or a permission is
//! missing.

use std::io::Write as _;

/// Reports on stderr that the running test is skipped, and why.
///
/// It writes to stderr directly: the output of `eprintln!` in a passing test is captured, and
/// nobody reads it.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // A test does not fail because its stderr is closed.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}
