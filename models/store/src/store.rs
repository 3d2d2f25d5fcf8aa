//! A folder of model folders, and whether their files are the published ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::faults::{Fault, NotHere};
use crate::manifest::{Model, PinnedFile};
use crate::{Sha256, StoreError};

/// The folder that holds one folder for each model.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// The part of a model that is in the store, by the sizes of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum State {
    Absent,
    Partial,
    Here,
}

/// The state of a file when its checksum was last found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    sha256: Sha256,
    bytes: u64,
    modified_ns: u128,
}

/// A hidden file beside the model's files: it does not count towards the model's revision.
const STAMPS: &str = ".checked.json";

impl Store {
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

    /// The part of the model that is there, by the sizes of its files.
    pub fn state(&self, model: &Model) -> State {
        let folder = self.folder(model);
        let here = model.files.iter().filter(|file| is_there(&folder, file)).count();
        match here {
            0 => State::Absent,
            here if here == model.files.len() => State::Here,
            _ => State::Partial,
        }
    }

    /// The folder of a model whose files are all the published ones. A file that has not changed
    /// since its last check is not read again.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotHere`] with what to bring from where.
    pub fn path(&self, model: &Model) -> Result<PathBuf, StoreError> {
        self.checked(model, true)
    }

    /// As [`Self::path`], but reads every file.
    ///
    /// # Errors
    ///
    /// As there.
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

    /// The faulty files, by their indices in the manifest.
    pub(crate) fn faults(&self, model: &Model, trust_stamps: bool) -> Vec<(usize, Fault)> {
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

/// True if a file of the right size is there.
fn is_there(folder: &Path, file: &PinnedFile) -> bool {
    let found = std::fs::metadata(folder.join(&file.path));
    found.is_ok_and(|found| found.is_file() && file.bytes.is_none_or(|bytes| bytes == found.len()))
}

/// Checks a file's content, unless it is as the stamp says.
fn examine(folder: &Path, file: &PinnedFile, stamp: Option<&Stamp>) -> Result<Stamp, Fault> {
    let path = folder.join(&file.path);
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreadable(error.to_string()),
    };
    let found = std::fs::metadata(&path).map_err(unreadable)?;
    if file.bytes.is_some_and(|bytes| bytes != found.len()) {
        return Err(Fault::Size(found.len()));
    }
    let modified_ns = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let modified_ns = modified_ns.map_or(0, |since| since.as_nanos());
    let fresh = Stamp { sha256: file.sha256, bytes: found.len(), modified_ns };
    if stamp == Some(&fresh) {
        return Ok(fresh);
    }
    match Sha256::of_file(&path).map_err(unreadable)? {
        got if got == file.sha256 => Ok(fresh),
        got => Err(Fault::Content(got)),
    }
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stamps(BTreeMap<String, Stamp>);

impl Stamps {
    /// Without stamps that can be read, every file is checked.
    fn read(folder: &Path) -> Self {
        let text = std::fs::read(folder.join(STAMPS)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// In a folder that cannot be written, files are checked each time.
    fn write(&self, folder: &Path) {
        let Ok(text) = serde_json::to_vec(self) else { return };
        let fresh = folder.join(format!("{STAMPS}.{}", std::process::id()));
        if std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, folder.join(STAMPS))).is_err() {
            _ = std::fs::remove_file(fresh);
        }
    }
}
