//! The pages: what they tell a reader to click on, type or configure exists.

use std::path::Path;
use std::process::Command;

#[test]
fn every_link_command_flag_key_and_code_that_the_pages_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = std::env::var_os("UNPROMPT_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let checked = Command::new(&python)
        .arg(root.join("scripts/check-docs"))
        .args(["--binary", env!("CARGO_BIN_EXE_unprompt")])
        .output()
        .unwrap_or_else(|error| panic!("{} does not run: {error}", python.display()));
    let found = String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success(),
        "the pages name what is not there:\n{found}{}",
        String::from_utf8_lossy(&checked.stderr)
    );
}
