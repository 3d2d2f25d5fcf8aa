//! Makes new files durable. Edge syncs its changes to a segment, but not the files with which it
//! creates one, so a power cut would leave empty files, which it cannot open.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The files and folders that are synced, with their lengths.
#[derive(Debug, Default)]
pub(crate) struct SyncedFiles(HashMap<PathBuf, u64>);

impl SyncedFiles {
    /// Syncs everything below `at` that is new or has another length since the last call.
    ///
    /// # Errors
    /// Those of the file system. A file that is removed meanwhile is not an error.
    pub fn sync_new(&mut self, at: &Path) -> io::Result<()> {
        let mut found = HashMap::with_capacity(self.0.len());
        self.sync_folder(at, &mut found)?;
        // A removed name may be used again.
        self.0 = found;
        Ok(())
    }

    fn sync_folder(&self, folder: &Path, found: &mut HashMap<PathBuf, u64>) -> io::Result<()> {
        let mut has_new = !self.0.contains_key(folder);
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            has_new |= !self.0.contains_key(&path);
            let synced = match entry.file_type()?.is_dir() {
                true => self.sync_folder(&path, found),
                false => self.sync_file(path, found),
            };
            match synced {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if has_new {
            File::open(folder)?.sync_all()?;
        }
        found.insert(folder.to_owned(), 0);
        Ok(())
    }

    fn sync_file(&self, path: PathBuf, found: &mut HashMap<PathBuf, u64>) -> io::Result<()> {
        let length = fs::metadata(&path)?.len();
        if self.0.get(&path) != Some(&length) {
            File::open(&path)?.sync_all()?;
        }
        found.insert(path, length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_lengths_are_updated_and_removed_files_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (below, file) = (folder.path().join("below"), folder.path().join("below/file"));
        fs::create_dir(&below).unwrap();
        fs::write(&file, "one").unwrap();
        let mut synced = SyncedFiles::default();
        synced.sync_new(folder.path()).unwrap();
        assert_eq!(synced.0.get(&file), Some(&3));
        assert_eq!(synced.0.len(), 3);

        fs::write(&file, "three").unwrap();
        synced.sync_new(folder.path()).unwrap();
        assert_eq!(synced.0.get(&file), Some(&5));

        fs::remove_dir_all(&below).unwrap();
        synced.sync_new(folder.path()).unwrap();
        assert_eq!(synced.0.len(), 1);
    }
}
