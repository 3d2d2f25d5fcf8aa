//! The data directory on disk: its lock, its catalogue file and its folders. It must not know what
//! a collection contains.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use parking_lot::Mutex;
use qdrant_client::qdrant::CollectionConfig;
use tonic::Status;
use uuid::Uuid;

use super::catalogue::{Catalogue, CatalogueEntry, FORMAT};
use crate::EmbeddedIndexError;

const CATALOGUE: &str = "catalogue.json";
const COLLECTIONS: &str = "collections";
const LOCK: &str = "lock";

/// A data directory that this process has locked.
#[derive(Debug)]
pub(super) struct DataFolder {
    path: PathBuf,
    /// The lock is held while this file is open.
    lock: Mutex<Option<File>>,
}

impl DataFolder {
    /// Locks the directory. Creates it if it is missing.
    pub fn open(path: &Path) -> Result<Self, EmbeddedIndexError> {
        let refuse = |reason: String| EmbeddedIndexError::Folder { path: path.to_owned(), reason };
        let io = |error: io::Error| refuse(format!("{error}; give a writable folder"));
        refuse_foreign(path)?;
        fs::create_dir_all(path.join(COLLECTIONS)).map_err(io)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock: Mutex::new(Some(lock)) }),
            Err(TryLockError::WouldBlock) => Err(refuse(
                "another process uses it; stop that process or give this one another folder".into(),
            )),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// Releases the lock.
    pub fn release(&self) {
        drop(self.lock.lock().take());
    }

    /// The folder of a collection.
    pub fn collection(&self, id: Uuid) -> PathBuf {
        self.path.join(COLLECTIONS).join(id.to_string())
    }

    pub fn read_catalogue(&self) -> Result<Catalogue, EmbeddedIndexError> {
        let path = self.path.join(CATALOGUE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.first_catalogue(),
            Err(error) => return Err(EmbeddedIndexError::damaged(&path, error)),
        };
        let catalogue: Catalogue =
            serde_json::from_slice(&text).map_err(|error| EmbeddedIndexError::damaged(&path, error))?;
        if catalogue.format != FORMAT {
            let reason = format!(
                "format {}, this build reads {FORMAT}; use the build that wrote it",
                catalogue.format
            );
            return Err(EmbeddedIndexError::Folder { path, reason });
        }
        Ok(catalogue)
    }

    /// Returns the empty catalogue of a new directory. Refuses a directory that has collections but
    /// no catalogue.
    fn first_catalogue(&self) -> Result<Catalogue, EmbeddedIndexError> {
        let path = self.path.join(COLLECTIONS);
        let mut entries = fs::read_dir(&path).map_err(|error| EmbeddedIndexError::damaged(&path, error))?;
        if entries.next().is_some() {
            return Err(EmbeddedIndexError::damaged(&self.path, "it has collections but no catalogue.json"));
        }
        Ok(Catalogue::default())
    }

    /// Removes the folders that are not in the catalogue.
    pub fn sweep(&self, catalogue: &Catalogue) -> Result<(), EmbeddedIndexError> {
        let path = self.path.join(COLLECTIONS);
        let entries = fs::read_dir(&path).map_err(|error| EmbeddedIndexError::damaged(&path, error))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let named = catalogue.collections.values().any(|known| known.folder.to_string() == name);
            if !named && Uuid::parse_str(&name).is_ok() {
                self.remove(&entry.path());
            }
        }
        Ok(())
    }

    pub fn config_of(
        &self,
        name: &str,
        entry: &CatalogueEntry,
    ) -> Result<CollectionConfig, EmbeddedIndexError> {
        let at = self.collection(entry.folder);
        if !at.is_dir() {
            let reason = format!("the folder of the collection {name:?} is missing");
            return Err(EmbeddedIndexError::damaged(&at, reason));
        }
        let path = self.path.join(CATALOGUE);
        entry.config().ok_or_else(|| {
            EmbeddedIndexError::damaged(&path, format!("the configuration of {name:?} is unreadable"))
        })
    }

    /// Replaces the catalogue atomically: after a crash, either the old or the new one exists.
    pub fn write_catalogue(&self, catalogue: &Catalogue) -> Result<(), Status> {
        let failed = |error: &dyn std::fmt::Display| {
            Status::internal(format!("cannot write {}: {error}", self.path.join(CATALOGUE).display()))
        };
        let text = serde_json::to_vec_pretty(catalogue).map_err(|error| failed(&error))?;
        self.replace_catalogue(&text).map_err(|error| failed(&error))
    }

    fn replace_catalogue(&self, text: &[u8]) -> io::Result<()> {
        let mut file = AtomicWriteFile::open(self.path.join(CATALOGUE))?;
        file.write_all(text)?;
        // The folders that the catalogue names must be on disk before the catalogue.
        File::open(self.path.join(COLLECTIONS))?.sync_all()?;
        file.commit()?;
        File::open(&self.path)?.sync_all()
    }

    /// Removes a collection's folder. If that fails, the next start removes it.
    pub fn remove(&self, at: &Path) {
        match fs::remove_dir_all(at) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %at.display(), %error, "a deleted collection's folder stays until the next start");
            }
            _ => {}
        }
    }
}

/// Refuses a folder that contains foreign files.
fn refuse_foreign(path: &Path) -> Result<(), EmbeddedIndexError> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    let names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // A kill may leave a new catalogue under a temporary name, `.catalogue.json.` and some letters.
    let is_catalogue = |name: &str| name.trim_start_matches('.').starts_with(CATALOGUE);
    let ours = |name: &String| is_catalogue(name) || [COLLECTIONS, LOCK].contains(&name.as_str());
    match names.iter().find(|name| !ours(name)) {
        Some(foreign) => Err(EmbeddedIndexError::Folder {
            path: path.to_owned(),
            reason: format!(
                "it holds {foreign:?}, which does not belong to an index; give an empty folder or an \
                 existing index"
            ),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(error: EmbeddedIndexError) -> String {
        error.to_string()
    }

    #[test]
    fn an_open_folder_is_locked_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataFolder::open(dir.path()).unwrap();
        assert!(reason(DataFolder::open(dir.path()).unwrap_err()).contains("another process"));
        drop(held);
        DataFolder::open(dir.path()).unwrap();
    }

    #[test]
    fn a_foreign_folder_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "").unwrap();
        assert!(reason(DataFolder::open(dir.path()).unwrap_err()).contains("thesis.txt"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_catalogue_is_an_error_and_keeps_the_collections() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let kept = folder.collection(Uuid::nil());
        fs::create_dir(&kept).unwrap();
        assert!(reason(folder.read_catalogue().unwrap_err()).contains("no catalogue.json"));
        assert!(kept.is_dir());
    }

    #[test]
    fn a_damaged_catalogue_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CATALOGUE), "{").unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        assert!(reason(folder.read_catalogue().unwrap_err()).contains(CATALOGUE));
    }

    #[test]
    fn folders_missing_from_the_catalogue_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let left = folder.collection(Uuid::nil());
        fs::create_dir(&left).unwrap();
        folder.sweep(&Catalogue::default()).unwrap();
        assert!(!left.exists());
    }
}
