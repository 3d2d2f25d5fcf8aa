//! ONNX Runtime's library, which is found from a model's folder and loaded once per process.
//! OpenVINO's libraries are in the same folder and find each other there without a search path.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};

use ort::environment::Environment;

use super::failed;
use crate::ModelError;

/// ONNX Runtime allows one environment per process, and it must outlive every session.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Returns this process's environment. The first call creates it with the library found from
/// `folder`.
pub(super) fn environment(folder: &Path) -> Result<Environment, ModelError> {
    let mut known = ENVIRONMENT.lock();
    if let Some(environment) = &*known {
        return Ok(environment.clone());
    }
    let library = find(folder)?;
    // Fails if the library is older than the API that we use.
    let builder = ort::init_from(&library).map_err(failed)?;
    let environment = builder.with_telemetry(false).build().map_err(failed)?;
    tracing::debug!(library = %library.display(), "onnx runtime loaded");
    Ok(known.insert(environment).clone())
}

/// Finds the library: `ORT_DYLIB_PATH`, or the newest libonnxruntime in an `onnxruntime/` folder
/// within the model folder, next to it, or among the models that `models/tools/fetch_minilm.sh`
/// fetched.
fn find(folder: &Path) -> Result<PathBuf, ModelError> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let beside = folder.canonicalize().ok().and_then(|whole| whole.parent().map(Path::to_path_buf));
    let places = [Some(folder.to_path_buf()), beside, fetched()];
    let found = places.into_iter().flatten().find_map(|place| newest_in(&place.join("onnxruntime")));
    found.ok_or_else(|| {
        failed(format!("no onnxruntime/libonnxruntime.so* in {} or beside it", folder.display()))
    })
}

/// Returns `UNPROMPT_MODELS`, or unprompt/models in the user's cache folder.
fn fetched() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("UNPROMPT_MODELS").or_else(|| Some(cache()?.join("unprompt/models")))
}

fn newest_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut libraries: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("libonnxruntime.so")
                || name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
        })
        .collect();
    libraries.sort();
    libraries.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_beside_the_model() {
        let place = tempfile::tempdir().unwrap();
        let model = place.path().join("minilm");
        std::fs::create_dir_all(&model).unwrap();
        assert_eq!(newest_in(&place.path().join("onnxruntime")), None);
        std::fs::create_dir(place.path().join("onnxruntime")).unwrap();
        let library = place.path().join("onnxruntime/libonnxruntime.so.1.24.1");
        std::fs::write(&library, "").unwrap();
        std::fs::write(place.path().join("onnxruntime/libonnxruntime_providers_shared.so"), "").unwrap();
        assert_eq!(newest_in(&place.path().join("onnxruntime")), Some(library));
    }
}
