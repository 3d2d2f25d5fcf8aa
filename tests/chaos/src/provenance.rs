//! The machine and the build of a run, for its report.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::Serialize;

/// The origin of a report's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// Such as `2 cores of Intel(R) Xeon(R) Processor`.
    pub hardware: String,
    /// The commit of the binary under test.
    pub commit: String,
}

impl Provenance {
    /// Asks the binary for its commit.
    ///
    /// # Errors
    ///
    /// If the binary cannot be run, or says no commit.
    pub fn of(binary: &Path) -> anyhow::Result<Self> {
        let asked = Command::new(binary).arg("--version").output()?;
        let version = String::from_utf8(asked.stdout)?;
        let commit = commit(&version).with_context(|| format!("no commit in {version:?}"))?;
        let cores = std::thread::available_parallelism()?;
        let processors = fs::read_to_string("/proc/cpuinfo")?;
        Ok(Self { hardware: format!("{cores} cores of {}", model(&processors)), commit: commit.to_owned() })
    }
}

/// Returns the commit in `unprompt 0.1.0 (commit 0123456789ab; features …)`.
fn commit(version: &str) -> Option<&str> {
    let (_, rest) = version.split_once("(commit ")?;
    rest.split([';', ')']).next()
}

/// Returns the model's name in /proc/cpuinfo.
fn model(processors: &str) -> &str {
    let names = processors.lines().filter(|line| line.starts_with("model name"));
    names.filter_map(|line| Some(line.split_once(':')?.1.trim())).next().unwrap_or("an unnamed processor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_and_processor_are_found() {
        assert_eq!(commit("unprompt 0.1.0 (commit 85e36e3; features onnx)"), Some("85e36e3"));
        assert_eq!(commit("unprompt 0.1.0"), None);
        assert_eq!(model("processor\t: 0\nmodel name\t: Some CPU\nmodel name\t: Some CPU\n"), "Some CPU");
        assert_eq!(model(""), "an unnamed processor");
    }
}
