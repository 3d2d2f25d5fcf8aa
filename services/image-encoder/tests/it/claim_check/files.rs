//! Pictures in local folders.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::support::{Fetching, embedding, png};

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// A folder `pictures` that may be read, next to a folder `secret` that may not; each has one
/// picture.
fn folders() -> (Fetching, TempDir) {
    let root = tempfile::tempdir().unwrap();
    for folder in ["pictures", "secret"] {
        fs::create_dir(root.path().join(folder)).unwrap();
        fs::write(root.path().join(folder).join("1.png"), png(1)).unwrap();
    }
    let mut fetching = Fetching::new();
    fetching.configure(json!({"allow": [uri(&root.path().join("pictures"))]}));
    (fetching, root)
}

#[test]
fn a_file_in_an_allowed_folder_is_fetched() {
    let (mut fetching, root) = folders();
    let pictures = root.path().join("pictures");
    embedding(&fetching.fetch(&uri(&pictures.join("1.png"))));
    fs::create_dir(pictures.join("of today")).unwrap();
    fs::write(pictures.join("of today/ä.png"), png(2)).unwrap();
    embedding(&fetching.fetch(&format!("{}/of%20today/%C3%A4.png", uri(&pictures))));
    symlink("1.png", pictures.join("link.png")).unwrap();
    embedding(&fetching.fetch(&uri(&pictures.join("link.png"))));
}

#[test]
fn an_allowed_folder_may_itself_be_a_link() {
    let (_, root) = folders();
    symlink(root.path().join("pictures"), root.path().join("linked")).unwrap();
    let mut fetching = Fetching::new();
    fetching.configure(json!({"allow": [uri(&root.path().join("linked/"))]}));
    embedding(&fetching.fetch(&uri(&root.path().join("linked/1.png"))));
}

#[test]
fn links_and_paths_that_leave_the_folder_are_refused() {
    let (mut fetching, root) = folders();
    let pictures = root.path().join("pictures");
    symlink("../secret/1.png", pictures.join("relative.png")).unwrap();
    symlink(root.path().join("secret/1.png"), pictures.join("absolute.png")).unwrap();
    symlink("../secret", pictures.join("folder")).unwrap();
    symlink("relative.png", pictures.join("twice.png")).unwrap();
    for name in [
        "relative.png",
        "absolute.png",
        "folder/1.png",
        "twice.png",
        "../secret/1.png",
        "%2e%2e/secret/1.png",
    ] {
        let (code, reason) = fetching.refuse(&format!("{}/{name}", uri(&pictures)));
        assert_eq!(code, "uri-not-allowed", "{name}: {reason}");
    }
    assert_eq!(fetching.refuse(&format!("{}/..%2fsecret/1.png", uri(&pictures))).0, "bad-uri");
    assert_eq!(fetching.refuse(&uri(&root.path().join("pictures2/1.png"))).0, "uri-not-allowed");
}

#[test]
fn missing_and_special_files_are_not_found_without_waiting() {
    let (mut fetching, root) = folders();
    let pictures = root.path().join("pictures");
    assert!(Command::new("mkfifo").arg(pictures.join("pipe")).status().unwrap().success());
    symlink("circle", pictures.join("circle")).unwrap();
    for name in ["missing.png", "pipe", "", "1.png/1.png", "circle"] {
        let (code, reason) = fetching.refuse(&format!("{}/{name}", uri(&pictures)));
        assert_eq!(code, "picture-not-found", "{name}: {reason}");
    }
}

#[test]
fn a_file_larger_than_max_bytes_is_refused() {
    let (mut fetching, root) = folders();
    let bytes = png(1).len();
    let picture = uri(&root.path().join("pictures/1.png"));
    let allow = [uri(&root.path().join("pictures"))];
    fetching.configure(json!({"allow": allow, "max_bytes": bytes - 1}));
    assert_eq!(fetching.refuse(&picture).0, "image-too-large");
    fetching.configure(json!({"allow": allow, "max_bytes": bytes}));
    embedding(&fetching.fetch(&picture));
}
