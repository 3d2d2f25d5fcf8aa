//! The memory of processes and the size of folders, sampled over a run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::trend::Trend;

const MIB: f64 = (1 << 20) as f64;
/// The size of the blocks in which a file's allocation is reported.
const BLOCK_BYTES: u64 = 512;

/// A quantity that can be sampled.
#[derive(Clone, Debug)]
pub enum Source {
    /// The resident memory of a process.
    Process(u32),
    /// The bytes allocated to the files of a folder.
    Folder(PathBuf),
}

impl Source {
    fn mib(&self) -> anyhow::Result<f64> {
        match self {
            Self::Process(pid) => resident_mib(*pid),
            Self::Folder(folder) => Ok(allocated_bytes(folder) as f64 / MIB),
        }
    }
}

fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the process has ended")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Files that are removed meanwhile count as zero.
fn allocated_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |path: PathBuf| match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => allocated_bytes(&path),
        Ok(found) => found.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(|entry| of(entry.path())).sum()
}

/// A source and its samples.
#[derive(Debug)]
pub struct Usage {
    name: String,
    source: Source,
    /// The time since the start, and mebibytes.
    samples: Vec<(Duration, f64)>,
}

/// The summary of a usage, in mebibytes.
#[derive(Clone, Debug, Serialize)]
pub struct UsageReport {
    pub name: String,
    /// The first sample after the warm-up.
    pub first_mib: f64,
    pub last_mib: f64,
    /// The maximum over the whole run.
    pub max_mib: f64,
    /// The trend after the warm-up; `None` if the run was too short.
    pub trend_mib: Option<Trend>,
}

impl Usage {
    pub fn new(name: &str, source: Source) -> Self {
        Self { name: name.to_owned(), source, samples: Vec::new() }
    }

    /// Takes a sample.
    ///
    /// # Errors
    ///
    /// If the process has ended.
    pub fn sample(&mut self, since_start: Duration) -> anyhow::Result<()> {
        let mib = self.source.mib().with_context(|| format!("{} cannot be measured", self.name))?;
        self.samples.push((since_start, mib));
        Ok(())
    }

    /// The newest sample, such as `up 512 MiB`.
    pub fn line(&self) -> String {
        let newest = self.samples.last().map_or(0.0, |sample| sample.1);
        format!("{} {newest:.0} MiB", self.name)
    }

    /// Summarises the samples; those before `warm_up` count only in the maximum.
    pub fn report(&self, warm_up: Duration) -> UsageReport {
        let later: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|(at, _)| *at >= warm_up)
            .map(|(at, mib)| (at.as_secs_f64() / 3600.0, *mib))
            .collect();
        let value = |sample: Option<&(f64, f64)>| sample.map_or(f64::NAN, |sample| sample.1);
        UsageReport {
            name: self.name.clone(),
            first_mib: value(later.first()),
            last_mib: value(later.last()),
            max_mib: self.samples.iter().map(|sample| sample.1).fold(0.0, f64::max),
            trend_mib: Trend::of(&later),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_and_a_folder_can_be_measured() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/file"), vec![1; 3 << 20]).unwrap();
        let mut memory = Usage::new("memory", Source::Process(std::process::id()));
        let mut disk = Usage::new("disk", Source::Folder(folder.path().to_owned()));
        for at in 0..20 {
            memory.sample(Duration::from_secs(at)).unwrap();
            disk.sample(Duration::from_secs(at)).unwrap();
        }
        assert!(memory.report(Duration::ZERO).max_mib > 1.0);
        let disk = disk.report(Duration::from_secs(5));
        assert!((3.0..3.5).contains(&disk.last_mib), "{disk:?}");
        assert_eq!(disk.trend_mib.map(|trend| trend.per_hour.round()), Some(0.0));
    }

    #[test]
    fn a_process_that_has_ended_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let mut usage = Usage::new("gone", Source::Process(child.id()));
        assert!(usage.sample(Duration::ZERO).unwrap_err().to_string().contains("gone"));
    }
}
