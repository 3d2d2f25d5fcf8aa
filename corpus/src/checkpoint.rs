//! The progress of a run on disk, so that another run can resume it. It knows nothing of what the
//! run does.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::CorpusError;

/// Everything that determines the rows of a run and their order: the inputs as found, and the
/// options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The sources as given.
    pub sources: Vec<String>,
    pub inputs: Vec<FoundInput>,
    pub options: Value,
}

/// An input as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundInput {
    pub name: String,
    pub size: Option<u64>,
    pub version: String,
}

#[derive(Serialize, Deserialize)]
struct CheckpointFile {
    fingerprint: Fingerprint,
    acknowledged: u64,
    #[serde(default)]
    state: serde_json::Value,
}

/// The file with a run's progress: how many of its kept rows are acknowledged.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    fingerprint: Fingerprint,
    /// State that the run saves with its progress.
    state: serde_json::Value,
}

impl Fingerprint {
    /// Describes the first difference from `other`; none if they are equal.
    fn difference(&self, other: &Self) -> Option<String> {
        if let Some((option, was, is)) = first_difference(&other.options, &self.options) {
            return Some(format!("{option} was {was} then, and is {is} now"));
        }
        let changed = |input: &&FoundInput| !other.inputs.contains(input);
        let name = |input: &FoundInput| input.name.clone();
        match self.inputs.iter().find(changed) {
            Some(input) => Some(format!("{} is new or has changed since", input.name)),
            None if self.inputs.len() == other.inputs.len() => None,
            None => {
                let gone = other.inputs.iter().find(|input| !self.inputs.contains(input)).map(name);
                Some(format!("{} is gone or has changed since", gone.unwrap_or_default()))
            }
        }
    }

    /// Returns 16 hexadecimal digits of the sources' digest: the name of the checkpoint's file.
    fn name(&self) -> String {
        let digest = Sha256::digest(self.sources.join("\0").as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Returns the name and both values of the first option that differs.
fn first_difference<'a>(was: &'a Value, is: &'a Value) -> Option<(String, &'a Value, &'a Value)> {
    match (was, is) {
        (was, is) if was == is => None,
        (Value::Object(before), Value::Object(after)) => {
            let keys = before.keys().chain(after.keys());
            let of = |map: &'a Map<String, Value>, key: &str| map.get(key).unwrap_or(&Value::Null);
            keys.filter_map(|key| {
                let (name, was, is) = first_difference(of(before, key), of(after, key))?;
                Some((if name.is_empty() { key.clone() } else { name }, was, is))
            })
            .next()
        }
        (was, is) => Some((String::new(), was, is)),
    }
}

impl Checkpoint {
    /// Opens the checkpoint of a run over the same sources in `folder`, and returns the number of
    /// rows that are already acknowledged. `restart` deletes an earlier checkpoint.
    ///
    /// # Errors
    /// [`CorpusError::OtherRun`] if the earlier run had other options or the inputs have changed
    /// since, [`CorpusError::Checkpoint`].
    pub fn open(folder: &Path, fingerprint: Fingerprint, restart: bool) -> Result<(Self, u64), CorpusError> {
        // It is in the data directory, which is for this user only.
        let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        created.map_err(|error| CorpusError::checkpoint(folder, error))?;
        let path = folder.join(format!("{}.json", fingerprint.name()));
        let mut checkpoint = Self { path, fingerprint, state: serde_json::Value::Null };
        if restart {
            checkpoint.remove()?;
        }
        let acknowledged = checkpoint.read()?;
        Ok((checkpoint, acknowledged))
    }

    fn read(&mut self) -> Result<u64, CorpusError> {
        let failed = |error: String| CorpusError::checkpoint(&self.path, error);
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(|error| failed(error.to_string()))?,
        };
        let saved: CheckpointFile = serde_json::from_slice(&bytes)
            .map_err(|error| failed(format!("{error}; begin again with --restart")))?;
        match self.fingerprint.difference(&saved.fingerprint) {
            None => {
                self.state = saved.state;
                Ok(saved.acknowledged)
            }
            Some(changed) => Err(CorpusError::OtherRun { path: self.path.clone(), changed }),
        }
    }

    /// Returns the state saved by [`Checkpoint::save_with`]; none if there is none of this type.
    #[must_use]
    pub fn state<S: DeserializeOwned>(&self) -> Option<S> {
        serde_json::from_value(self.state.clone()).ok()
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Saves like [`Checkpoint::save`], with the run's state.
    ///
    /// # Errors
    /// [`CorpusError::Checkpoint`].
    pub fn save_with(&mut self, acknowledged: u64, state: &impl Serialize) -> Result<(), CorpusError> {
        self.state =
            serde_json::to_value(state).map_err(|error| CorpusError::checkpoint(&self.path, error))?;
        self.save(acknowledged)
    }

    /// Saves the number of acknowledged rows atomically: the file has the new number or stays as it
    /// was.
    ///
    /// # Errors
    /// [`CorpusError::Checkpoint`].
    pub fn save(&self, acknowledged: u64) -> Result<(), CorpusError> {
        let saved =
            CheckpointFile { fingerprint: self.fingerprint.clone(), acknowledged, state: self.state.clone() };
        let write = || {
            let mut file = AtomicWriteFile::open(&self.path)?;
            file.write_all(&serde_json::to_vec(&saved)?)?;
            file.commit()
        };
        write().map_err(|error| {
            let advice = "make its folder writable, or free some space, and repeat the command";
            CorpusError::checkpoint(&self.path, format!("{error}; {advice}"))
        })
    }

    /// Deletes the checkpoint of a finished run.
    ///
    /// # Errors
    /// [`CorpusError::Checkpoint`].
    pub fn remove(&self) -> Result<(), CorpusError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CorpusError::checkpoint(&self.path, error))
            }
            _ => Ok(()),
        }
    }
}
