//! The binary outside its repository, as `make install` leaves it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::stack::unprompt;

#[test]
fn the_version_names_commit_and_features() {
    let printed = unprompt().arg("--version").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let (version, rest) = printed.trim().split_once(" (commit ").unwrap_or_else(|| panic!("{printed}"));
    assert_eq!(version, concat!("unprompt ", env!("CARGO_PKG_VERSION")));
    let (commit, features) = rest.split_once("; features ").unwrap_or_else(|| panic!("{printed}"));
    assert!(commit == "unknown" || commit.len() >= 7, "{printed}");
    assert!(features.contains("embedded-broker, embedded-index"), "{printed}");
}

#[test]
fn models_are_found_in_the_prefix_of_the_binary() {
    let folder = tempfile::tempdir().unwrap();
    let binary = install(folder.path());
    let doctor = Command::new(binary)
        .args(["--json", "--data-dir", "data", "--kafka", "127.0.0.1:1", "doctor"])
        .env("UNPROMPT_MODELS", folder.path().join("nothing"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    let checks: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    for model in ["MiniLM", "image encoder", "Stable Diffusion 2"] {
        let check = checks.as_array().unwrap().iter().find(|check| check["what"] == model).unwrap();
        assert_eq!(check["ok"], true, "{check}");
    }
}

/// A prefix with this test's binary and links to the models.
fn install(prefix: &Path) -> PathBuf {
    let (binary, models) = (prefix.join("bin/unprompt"), prefix.join("share/unprompt/models"));
    std::fs::create_dir_all(binary.parent().unwrap()).unwrap();
    std::fs::create_dir_all(&models).unwrap();
    let built = env!("CARGO_BIN_EXE_unprompt");
    // A symbolic link would lead the binary back to where it was built.
    std::fs::hard_link(built, &binary).or_else(|_| std::fs::copy(built, &binary).map(drop)).unwrap();
    let checkpoints = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-world/checkpoints");
    for name in ["clip", "sd2"] {
        symlink(checkpoints.join(name).canonicalize().unwrap(), models.join(name)).unwrap();
    }
    let minilm = crate::models::minilm().canonicalize().unwrap();
    symlink(&minilm, models.join("all-MiniLM-L6-v2")).unwrap();
    symlink(minilm.with_file_name("onnxruntime"), models.join("onnxruntime")).unwrap();
    binary
}
