//! What a disk keeps over a power cut, and that it otherwise behaves like any other.

mod comparison;
mod durability;
mod files;
mod space;
mod sqlite;
mod survivors;
mod unmounting;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use unprompt_test_disk::{Disk, Survivors};
use unprompt_test_skipped::skipped;

/// A disk; `None`, with a message, where none can be mounted.
fn disk() -> Option<Disk> {
    Disk::mount().map_err(|error| skipped(&error.to_string())).ok()
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Writes a file, and syncs it and its directory.
fn write_durably(path: &Path, data: impl AsRef<[u8]>) {
    fs::write(path, data).unwrap();
    sync(path);
    sync(path.parent().unwrap());
}

/// Loses all that is not durable, and starts again.
fn lose_power(disk: &mut Disk) {
    disk.cut_power(Survivors::OnlySynced);
    disk.restore().unwrap();
}

/// A Python script with its arguments; `None`, with a message, where there is no Python.
fn python(script: &str, arguments: &[&Path]) -> Option<Command> {
    let there = Command::new("python3").arg("-V").stdout(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        skipped("python3 does not run");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).args(arguments);
    Some(command)
}
