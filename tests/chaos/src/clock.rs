//! The clock of an instance, which a library (libfaketime) reads from a file.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Where Debian and its descendants install libfaketime.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
const UNCHANGED: &str = "+0";

/// The source of a library that makes condition variables follow the clock.
const CONDITIONS: &str = include_str!("cnd_timedwait.c");

/// A wall clock that can be changed; the monotonic clock stays as it is.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The libraries to load, separated by colons.
    libraries: OsString,
    file: PathBuf,
}

impl Clock {
    /// Makes a clock whose file is in `folder`.
    ///
    /// # Errors
    ///
    /// If libfaketime is not installed, or there is no C compiler.
    pub fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let mut libraries = conditions(folder)?.into_os_string();
        libraries.push(":");
        libraries.push(library()?);
        let clock = Self { libraries, file: folder.join(format!("{name}.clock")) };
        clock.set_back()?;
        Ok(clock)
    }

    /// Makes the process use this clock.
    pub fn rule(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.libraries)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            // The seconds until a change of the file is detected.
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    /// Moves the clock by a number of days.
    pub fn jump(&self, days: i32) -> anyhow::Result<()> {
        self.write(&format!("{days:+}d"))
    }

    pub fn set_back(&self) -> anyhow::Result<()> {
        self.write(UNCHANGED)
    }

    /// Replaces the file at once: a reader must not find it empty.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &self.file)?)
    }
}

/// Compiles [`CONDITIONS`] into `folder`.
fn conditions(folder: &Path) -> anyhow::Result<PathBuf> {
    let [source, library] = ["c", "so"].map(|ending| folder.join(format!("cnd_timedwait.{ending}")));
    fs::write(&source, CONDITIONS)?;
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
    ensure!(compiled.context("cc runs")?.success(), "{} could not be compiled", source.display());
    Ok(library)
}

fn library() -> anyhow::Result<PathBuf> {
    let folders = fs::read_dir(LIBRARIES)?.filter_map(Result::ok).map(|folder| folder.path());
    folders.map(|folder| folder.join(LIBRARY)).find(|path| path.is_file()).context(
        "a clock that jumps needs libfaketime: apt-get install libfaketime, or leave it out with --clock-jumps 0",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hours that a process sees between the epoch and now.
    fn hours(clock: &Clock) -> i64 {
        let mut date = Command::new("date");
        date.arg("+%s");
        clock.rule(&mut date);
        let seconds: i64 = String::from_utf8(date.output().unwrap().stdout).unwrap().trim().parse().unwrap();
        seconds / 3600
    }

    #[test]
    fn a_process_sees_the_jumps_of_its_clock() {
        let folder = tempfile::tempdir().unwrap();
        let clock = match Clock::new(folder.path(), "clock") {
            Ok(clock) => clock,
            Err(error) => return unprompt_test_skipped::skipped(&format!("{error:#}")),
        };
        let now = hours(&clock);
        clock.jump(1).unwrap();
        assert!((24..=25).contains(&(hours(&clock) - now)));
        clock.jump(-1).unwrap();
        assert!((-24..=-23).contains(&(hours(&clock) - now)));
        clock.set_back().unwrap();
        assert!((0..=1).contains(&(hours(&clock) - now)));
    }
}
