//! ONNX Runtime's library, which is loaded once per process. OpenVINO's libraries are in the same
//! folder and find each other there without a search path.
//!
//! A library's code runs as this user, so it is loaded only from where set-up puts it, and only if
//! it is the file that set-up fetches. A model folder may come from anyone.

use std::fs::File;
use std::path::{Path, PathBuf};

use ort::environment::Environment;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::failed;
use crate::{ModelError, places};

/// ONNX Runtime allows one environment per process, and it must outlive every session.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// The checksums of the libraries that set-up fetches, for every platform.
const PINNED: &str = include_str!("libraries.sha256");

/// Returns this process's environment. The first call loads the library.
pub(super) fn environment() -> Result<Environment, ModelError> {
    let mut known = ENVIRONMENT.lock();
    if let Some(environment) = &*known {
        return Ok(environment.clone());
    }
    let library = find()?;
    // Fails if the library is older than the API that we use.
    let builder = ort::init_from(&library).map_err(failed)?;
    let environment = builder.with_telemetry(false).build().map_err(failed)?;
    tracing::debug!(library = %library.display(), "onnx runtime loaded");
    Ok(known.insert(environment).clone())
}

/// Finds the library: the one that `ORT_DYLIB_PATH` names, or that in an `onnxruntime/` folder of
/// the installed or the fetched models.
fn find() -> Result<PathBuf, ModelError> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let places = [places::installed(), places::fetched()].into_iter().flatten();
    for folder in places.map(|place| place.join("onnxruntime")) {
        if let Some(library) = checked_in(&folder)? {
            return Ok(library);
        }
    }
    Err(failed(
        "ONNX Runtime was not found: run models/tools/fetch_minilm.sh, or set ORT_DYLIB_PATH to its library",
    ))
}

/// Returns the library in `folder` after a check of all libraries there, since they load each
/// other; `None` if there is none.
fn checked_in(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let mut found = None;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !is_library(&name) {
            continue;
        }
        check(&path, &name)?;
        if name.starts_with("libonnxruntime.") {
            found = Some(path);
        }
    }
    Ok(found)
}

fn is_library(name: &str) -> bool {
    name.ends_with(".dylib") || name.ends_with(".so") || name.contains(".so.")
}

fn check(path: &Path, name: &str) -> Result<(), ModelError> {
    let sum = checksum(path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    if pinned().any(|(wanted, library)| library == name && wanted == sum) {
        return Ok(());
    }
    Err(failed(format!(
        "{} is not the file that set-up fetches (its SHA-256 is {sum}), so it is not loaded: remove its folder and run \
         models/tools/fetch_minilm.sh, or set ORT_DYLIB_PATH to your own library",
        path.display()
    )))
}

/// Returns the checksum and name of every pinned library.
fn pinned() -> impl Iterator<Item = (&'static str, &'static str)> {
    PINNED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once("  "))
}

fn checksum(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_libraries_are_read() {
        let names: Vec<_> = pinned().map(|(_, name)| name).collect();
        assert!(names.contains(&"libonnxruntime.so.1.24.1") && names.contains(&"libtbb.so.12"), "{names:?}");
        assert!(pinned().all(|(sum, _)| sum.len() == 64));
    }

    #[test]
    fn a_library_that_set_up_did_not_fetch_is_refused_and_one_it_fetched_is_found() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(checked_in(&place.path().join("onnxruntime")).unwrap(), None);
        std::fs::write(place.path().join("LICENSE"), "no library").unwrap();
        assert_eq!(checked_in(place.path()).unwrap(), None);
        for planted in ["libonnxruntime.so.9", "libonnxruntime.so.1.24.1", "libopenvino_auto_plugin.so"] {
            let path = place.path().join(planted);
            std::fs::write(&path, "planted").unwrap();
            let refused = checked_in(place.path()).unwrap_err().to_string();
            assert!(refused.contains(planted) && refused.contains("ORT_DYLIB_PATH"), "{refused}");
            std::fs::remove_file(path).unwrap();
        }
        let fetched = places::fetched().unwrap().join("onnxruntime");
        if fetched.is_dir() {
            assert!(checked_in(&fetched).unwrap().is_some(), "set-up fetches what is pinned");
        }
    }
}
