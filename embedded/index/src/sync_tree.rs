//! Makes a folder durable.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Syncs every file and folder below `at`, and `at` itself. Edge syncs what it changes in a segment,
/// but not what it creates a segment with, so a power cut would leave empty files.
///
/// # Errors
/// Those of the file system. What is removed meanwhile is no error.
pub(crate) fn sync_tree(at: &Path) -> io::Result<()> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        let synced = match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path()),
            false => File::open(entry.path()).and_then(|file| file.sync_all()),
        };
        match synced {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::open(at)?.sync_all()
}
