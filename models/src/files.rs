//! Model folders: finding a file, reading its configuration, and naming the folder's revision.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::ModelError;

/// The model that made a vector or a picture: the folder's name, and the first 12 hexadecimal
/// digits of the SHA-256 over its configuration, tokenizer and weight files (relative path, length
/// and content of each, sorted by path). Equal revisions mean equal files, regardless of the
/// folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision {
    pub name: String,
    pub revision: String,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)
    }
}

/// Extensions of the files that count towards a revision. Documentation, pictures and other weight
/// formats do not count.
const COUNTED: [&str; 3] = ["safetensors", "json", "txt"];

impl Revision {
    /// Computes the revision of a model folder from its files.
    pub fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let mut files = Vec::new();
        collect(folder, &mut files)?;
        files.sort();
        let mut hasher = Sha256::new();
        for file in &files {
            hash_file(folder, file, &mut hasher)?;
        }
        let digest = hasher.finalize();
        let revision = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name: folder_name(folder), revision })
    }
}

fn folder_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    whole.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), ModelError> {
    let entries = std::fs::read_dir(folder).map_err(|error| missing_or_broken(folder, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| ModelError::broken(folder, error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            collect(&path, files)?;
        } else if !hidden && counts(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn counts(path: &Path) -> bool {
    path.extension().is_some_and(|ending| COUNTED.iter().any(|known| ending == *known))
}

fn hash_file(folder: &Path, file: &Path, hasher: &mut Sha256) -> Result<(), ModelError> {
    let relative = file.strip_prefix(folder).unwrap_or(file).to_string_lossy().replace('\\', "/");
    let mut reader = std::fs::File::open(file).map_err(|error| missing_or_broken(file, &error))?;
    let length = reader.metadata().map_err(|error| ModelError::broken(file, error))?.len();
    hasher.update((relative.len() as u64).to_le_bytes());
    hasher.update(relative.as_bytes());
    hasher.update(length.to_le_bytes());
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = reader.read(&mut buffer).map_err(|error| ModelError::broken(file, error))?;
        if read == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..read]);
    }
}

fn missing_or_broken(path: &Path, error: &std::io::Error) -> ModelError {
    match error.kind() {
        std::io::ErrorKind::NotFound => missing(path),
        _ => ModelError::broken(path, error),
    }
}

pub(crate) fn missing(path: &Path) -> ModelError {
    let hint = "check the model folder's path, or fetch the model again".to_owned();
    ModelError::Missing { path: path.to_path_buf(), hint }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|error| missing_or_broken(path, &error))
}

/// Reads a JSON file as `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(&read(path)?).map_err(|error| ModelError::broken(path, error))
}

/// The largest whole number in a settings file: four times the largest vocabulary of a published
/// text tower. The product of three such numbers fits into 64 bits.
const LARGEST: u64 = 1 << 20;

/// Reads a JSON file of settings as `T`. Refuses whole numbers above 2^20, with which sizes would
/// overflow, and names the setting.
pub(crate) fn read_settings<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let settings: Value = read_json(path)?;
    if let Some((name, number)) = too_large("", &settings) {
        let reason = format!("{name} = {number} is above {LARGEST}, more than any network has");
        return Err(ModelError::broken(path, reason));
    }
    serde_json::from_value(settings).map_err(|error| ModelError::broken(path, error))
}

/// The first whole number that is too large, with the name of its setting.
fn too_large<'a>(name: &'a str, value: &'a Value) -> Option<(&'a str, u64)> {
    match value {
        Value::Number(number) => number.as_u64().filter(|number| *number > LARGEST).map(|n| (name, n)),
        Value::Array(values) => values.iter().find_map(|value| too_large(name, value)),
        Value::Object(map) => map.iter().find_map(|(name, value)| too_large(name, value)),
        _ => None,
    }
}

/// Settings whose other values would mean another network: each name with its allowed values. A
/// missing setting and null are always allowed.
pub(crate) type Fixed<'a> = &'a [(&'a str, &'a [&'a str])];

/// Refuses settings that our network does not implement; the error names the setting.
pub(crate) fn check_settings(
    path: &Path,
    settings: &Map<String, Value>,
    fixed: Fixed<'_>,
) -> Result<(), ModelError> {
    for (name, allowed) in fixed {
        let text = match settings.get(*name) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        if !allowed.contains(&text.as_str()) {
            return Err(ModelError::unsupported(path, format!("{name} = {text}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_depends_on_the_content_and_not_on_the_folder() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &two] {
            std::fs::create_dir(folder.path().join("unet")).unwrap();
            std::fs::write(folder.path().join("unet/config.json"), "{}").unwrap();
        }
        std::fs::write(one.path().join("README.md"), "documentation does not count").unwrap();
        let revision = |folder: &tempfile::TempDir| Revision::of_folder(folder.path()).unwrap().revision;
        assert_eq!(revision(&one), revision(&two));
        assert_eq!(revision(&one).len(), 12);
        std::fs::write(two.path().join("unet/config.json"), "{ }").unwrap();
        assert_ne!(revision(&one), revision(&two));
    }
}
