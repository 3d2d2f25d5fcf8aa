//! A disk that can be full: a tmpfs, shrunk to the size of its contents.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

/// More than a run writes.
const CAPACITY: &str = "16g";
/// Shrinking fails if something was written since the usage was read.
const TRIES: usize = 50;

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// # Errors
    ///
    /// Without the right to mount.
    pub fn mount() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let size = format!("size={CAPACITY}");
        mount(&["-t", "tmpfs", "-o", &size, "tmpfs", &folder.path().to_string_lossy()])
            .context("a disk that fills up is a tmpfs: run as root, or leave it out with --full-disks 0")?;
        Ok(Self { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves no space.
    pub fn fill(&self) -> anyhow::Result<()> {
        let shrink = || self.resize(&format!("{}k", used_kib(self.path())?));
        let shrunk = std::iter::repeat_with(shrink).take(TRIES).find(Result::is_ok);
        shrunk.context("the disk is written to faster than it can be shrunk")?
    }

    /// Returns the space.
    pub fn free(&self) -> anyhow::Result<()> {
        self.resize(CAPACITY)
    }

    fn resize(&self, size: &str) -> anyhow::Result<()> {
        mount(&["-o", &format!("remount,size={size}"), &self.path().to_string_lossy()])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The folder stays if it cannot be unmounted; nothing else can be done here.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn mount(arguments: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("mount").args(arguments).output().context("mount runs")?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

fn used_kib(folder: &Path) -> anyhow::Result<u64> {
    let df = Command::new("df").args(["--output=used", "--block-size=1K"]).arg(folder).output()?;
    let text = String::from_utf8(df.stdout)?;
    Ok(text.lines().last().context("df reports the usage")?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_full_disk_refuses_writes_until_space_is_freed() {
        let disk = match SmallDisk::mount() {
            Ok(disk) => disk,
            Err(error) => return unprompt_test_skipped::skipped(&format!("{error:#}")),
        };
        let write = |name: &str| std::fs::write(disk.path().join(name), vec![1; 1 << 20]);
        write("before").unwrap();
        disk.fill().unwrap();
        assert_eq!(write("while").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(std::fs::read(disk.path().join("before")).unwrap().len(), 1 << 20);
        disk.free().unwrap();
        write("after").unwrap();
    }
}
