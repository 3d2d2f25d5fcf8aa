//! A folder of model folders, and the check that their files are the published ones.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use atomic_write_file::AtomicWriteFile;
use serde::{Deserialize, Serialize};

use crate::faults::{FileFault, NotHere};
use crate::manifest::{Model, PinnedFile};
use crate::{Sha256, StoreError};

/// A folder that contains one folder per model.
#[derive(Clone, Debug)]
pub struct ModelStore {
    root: PathBuf,
}

/// The part of a model that is in the store, judged by the sizes of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ModelState {
    Absent,
    Partial,
    Here,
}

/// The state of a file when its checksum was last verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    sha256: Sha256,
    bytes: u64,
    modified_ns: u128,
}

/// The file with the stamps, next to the model's files. It is hidden, so it does not count towards
/// the model's revision.
const STAMPS: &str = ".checked.json";

impl ModelStore {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The model's folder, whether it exists or not.
    pub fn folder(&self, model: &Model) -> PathBuf {
        self.root.join(&model.name)
    }

    /// Returns how much of the model is there, judged by the sizes of its files.
    pub fn state(&self, model: &Model) -> ModelState {
        let folder = self.folder(model);
        let here = model.files.iter().filter(|file| is_there(&folder, file)).count();
        match here {
            0 => ModelState::Absent,
            here if here == model.files.len() => ModelState::Here,
            _ => ModelState::Partial,
        }
    }

    /// Returns the model's folder if all its files are the published ones. A file that has not
    /// changed since its last check is not read again.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotHere`], which lists the missing files and where to get them.
    pub fn path(&self, model: &Model) -> Result<PathBuf, StoreError> {
        self.checked(model, true)
    }

    /// Like [`Self::path`], but reads every file.
    ///
    /// # Errors
    ///
    /// As for [`Self::path`].
    pub fn verify(&self, model: &Model) -> Result<PathBuf, StoreError> {
        self.checked(model, false)
    }

    fn checked(&self, model: &Model, trust_stamps: bool) -> Result<PathBuf, StoreError> {
        let folder = self.folder(model);
        let faults = self.faults(model, trust_stamps);
        if faults.is_empty() {
            return Ok(folder);
        }
        Err(NotHere { model, folder: &folder, faults: &faults, tried: &[] }.into())
    }

    /// Finds the faulty files, by their indices in the manifest.
    pub(crate) fn faults(&self, model: &Model, trust_stamps: bool) -> Vec<(usize, FileFault)> {
        let folder = self.folder(model);
        let known = Stamps::read(&folder);
        let mut seen = Stamps::default();
        let mut faults = Vec::new();
        for (at, file) in model.files.iter().enumerate() {
            let stamp = if trust_stamps { known.0.get(&file.path) } else { None };
            match examine(&folder, file, stamp) {
                Ok(stamp) => _ = seen.0.insert(file.path.clone(), stamp),
                Err(fault) => faults.push((at, fault)),
            }
        }
        if seen.0 != known.0 {
            seen.write(&folder);
        }
        faults
    }
}

/// Returns whether a file of the right size is there.
fn is_there(folder: &Path, file: &PinnedFile) -> bool {
    let found = std::fs::metadata(folder.join(&file.path));
    found.is_ok_and(|found| found.is_file() && file.bytes.is_none_or(|bytes| bytes == found.len()))
}

/// Checks a file's content, unless the file matches its stamp.
fn examine(folder: &Path, file: &PinnedFile, stamp: Option<&Stamp>) -> Result<Stamp, FileFault> {
    let path = folder.join(&file.path);
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => FileFault::Missing,
        _ => FileFault::Unreadable(error.to_string()),
    };
    let found = std::fs::metadata(&path).map_err(unreadable)?;
    if file.bytes.is_some_and(|bytes| bytes != found.len()) {
        return Err(FileFault::Size(found.len()));
    }
    let modified_ns = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let modified_ns = modified_ns.map_or(0, |since| since.as_nanos());
    let fresh = Stamp { sha256: file.sha256, bytes: found.len(), modified_ns };
    if stamp == Some(&fresh) {
        return Ok(fresh);
    }
    match Sha256::of_file(&path).map_err(unreadable)? {
        got if got == file.sha256 => Ok(fresh),
        got => Err(FileFault::Content(got)),
    }
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stamps(BTreeMap<String, Stamp>);

impl Stamps {
    /// Reads the stamps. If they are unreadable, every file is checked.
    fn read(folder: &Path) -> Self {
        let text = std::fs::read(folder.join(STAMPS)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes the stamps. If the folder is read-only, files are checked each time.
    fn write(&self, folder: &Path) {
        let Ok(text) = serde_json::to_vec(self) else { return };
        let write = || {
            let mut file = AtomicWriteFile::open(folder.join(STAMPS))?;
            file.write_all(&text)?;
            file.commit()
        };
        _ = write();
    }
}
