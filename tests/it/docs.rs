//! The documentation: everything it tells a reader to click on, type or configure exists.

use crate::other_clients::{must_succeed, python};

#[test]
fn every_link_command_flag_key_and_code_that_the_pages_name_exists() {
    must_succeed(python("scripts/check-docs").args(["--binary", env!("CARGO_BIN_EXE_unprompt")]));
}
