//! The transfer of one model into the store. A file is checked before it is moved into place, and a
//! partial file is kept for the next pull. It must not know where files come from.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::manifest::{Model, PinnedFile};
use crate::{Sha256, Sources, StoreError};

/// The options and callbacks of a pull.
#[allow(missing_debug_implementations)]
pub struct Pull<'a> {
    pub sources: Sources,
    /// A folder that has the files. If given, no other source is used.
    pub from: Option<PathBuf>,
    /// Called between chunks. Returning true ends the pull with [`StoreError::Stopped`].
    pub is_stopped: &'a dyn Fn() -> bool,
    /// Called with the number of bytes of the wanted files received so far.
    pub progress: &'a dyn Fn(u64),
    /// Called with a one-line message for each event.
    pub say: &'a dyn Fn(String),
}

/// The transfer of a model's files.
pub(crate) struct Transfer<'a> {
    pub model: &'a Model,
    pub folder: PathBuf,
    /// The folder of unfinished files, on the same disk as the store.
    pub staging: PathBuf,
    pub pull: &'a Pull<'a>,
    /// The files that are in place, and their total size.
    placed: BTreeSet<String>,
    placed_bytes: u64,
    /// The number of bytes reported so far.
    reported: Cell<u64>,
}

const COPY: &str = "copy";
const CHUNK: usize = 1 << 20;

impl<'a> Transfer<'a> {
    pub fn new(model: &'a Model, folder: PathBuf, staging: PathBuf, pull: &'a Pull<'a>) -> Self {
        let (placed, reported) = (BTreeSet::new(), Cell::new(0));
        Self { model, folder, staging, pull, placed, placed_bytes: 0, reported }
    }

    /// Returns the files that are not in place yet.
    pub fn left<'f>(&self, files: &[&'f PinnedFile]) -> Vec<&'f PinnedFile> {
        files.iter().copied().filter(|file| !self.placed.contains(&file.path)).collect()
    }

    /// The total size of the files that are in place.
    pub fn placed_bytes(&self) -> u64 {
        self.placed_bytes
    }

    /// Copies a local file into place.
    pub fn copy(&mut self, source: &Path, file: &PinnedFile) -> Result<(), StoreError> {
        let unreadable = |error| StoreError::Download(format!("{}: {error}", source.display()));
        let (mut from, part) = (File::open(source).map_err(unreadable)?, self.staging.join(COPY));
        let mut to = File::create(&part).map_err(|error| StoreError::folder(&part, error))?;
        let (mut chunk, mut received) = (vec![0u8; CHUNK], 0);
        loop {
            self.check_stop()?;
            let read = from.read(&mut chunk).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            to.write_all(&chunk[..read]).map_err(|error| StoreError::folder(&part, error))?;
            received += read as u64;
            self.report(file.bytes.map_or(received, |bytes| received.min(bytes)));
        }
        self.place(&part, file, &source.display().to_string())
    }

    /// The path of a file's partial download.
    pub fn part(&self, file: &PinnedFile) -> PathBuf {
        self.staging.join(format!("{}.part", file.sha256))
    }

    /// Moves a complete file into place if its checksum is the published one.
    pub fn place(&mut self, staged: &Path, file: &PinnedFile, source: &str) -> Result<(), StoreError> {
        let got = Sha256::of_file(staged).map_err(|error| StoreError::folder(staged, error))?;
        if got != file.sha256 {
            _ = std::fs::remove_file(staged);
            return Err(self.wrong_checksum(&file.path, source, got, file.sha256));
        }
        let bytes = std::fs::metadata(staged).map_or(0, |found| found.len());
        let place = self.folder.join(&file.path);
        place.parent().map_or(Ok(()), make)?;
        std::fs::rename(staged, &place).map_err(|error| StoreError::folder(&place, error))?;
        self.placed.insert(file.path.clone());
        self.placed_bytes += bytes;
        self.report(0);
        Ok(())
    }

    pub fn wrong_checksum(&self, file: &str, source: &str, got: Sha256, wanted: Sha256) -> StoreError {
        StoreError::Checksum {
            model: self.model.name.clone(),
            file: file.to_owned(),
            source_name: source.to_owned(),
            got: got.to_string(),
            wanted: wanted.to_string(),
        }
    }

    /// Reports progress: `bytes` is the size received of files that are not in place yet. The
    /// reported number never decreases, even if a file is discarded.
    pub fn report(&self, bytes: u64) {
        self.reported.set(self.reported.get().max(self.placed_bytes + bytes));
        (self.pull.progress)(self.reported.get());
    }

    pub fn check_stop(&self) -> Result<(), StoreError> {
        if (self.pull.is_stopped)() { Err(StoreError::Stopped) } else { Ok(()) }
    }
}

/// Creates a folder and its parents.
pub(crate) fn make(folder: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(folder).map_err(|error| StoreError::folder(folder, error))
}
