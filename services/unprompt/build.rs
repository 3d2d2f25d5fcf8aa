//! Provides the commit and the features of this build for `unprompt --version`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=UNPROMPT_COMMIT");
    let given = std::env::var("UNPROMPT_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(checked_out).or_else(archived).unwrap_or_else(|| "unknown".to_owned());
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo::rustc-env=UNPROMPT_VERSION={version} (commit {commit}; features {})", features());
}

/// Returns the features, as Cargo.toml spells them.
fn features() -> String {
    let variables = std::env::vars();
    let enabled = variables.filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase()));
    let mut names: Vec<String> =
        enabled.map(|name| name.replace('_', "-")).filter(|name| name != "default").collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Returns the commit that is checked out. None for a tarball that was unpacked inside another
/// repository.
fn checked_out() -> Option<String> {
    let asked =
        ["rev-parse", "--show-prefix", "--git-path", "HEAD", "--git-path", "logs/HEAD", "--short=12", "HEAD"];
    let answer = Command::new("git").args(asked).output().ok().filter(|answer| answer.status.success())?;
    let answer = String::from_utf8(answer.stdout).ok()?;
    let [prefix, head, log, commit] = answer.lines().collect::<Vec<_>>().try_into().ok()?;
    if prefix != "services/unprompt/" {
        return None;
    }
    // Every commit and checkout writes to the log. A path that does not exist would run this script
    // each time.
    for path in [head, log].into_iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    Some(commit.to_owned())
}

/// Returns the commit that `git archive` wrote into commit.txt.
fn archived() -> Option<String> {
    println!("cargo::rerun-if-changed=commit.txt");
    let commit = std::fs::read_to_string("commit.txt").ok()?;
    let commit = commit.trim();
    (!commit.is_empty() && !commit.starts_with('$')).then(|| commit.to_owned())
}
