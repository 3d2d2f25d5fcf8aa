//! MiniLM on ONNX Runtime, through fastembed. fastembed tokenizes and pads (to the longest of a batch) itself,
//! panics without ONNX Runtime's library and keeps one environment a process, so the library is found and checked
//! first.

use std::path::{Path, PathBuf};

use fastembed::{InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};

use crate::{ModelError, files};

pub(super) struct OnnxBert {
    model: TextEmbedding,
}

impl std::fmt::Debug for OnnxBert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxBert").finish_non_exhaustive()
    }
}

impl OnnxBert {
    pub(super) fn load(folder: &Path, max_length: usize) -> Result<Self, ModelError> {
        let graph = files::read(&folder.join("model.onnx"))?;
        let library = find_library(folder)?;
        // Refuses a library that is older than the API it is used by; loading it again does nothing.
        let environment =
            ort::init_from(&library).map_err(|error| ModelError::OnnxRuntime(error.to_string()))?;
        drop(environment);
        let model =
            UserDefinedEmbeddingModel::new(graph, tokenizer_files(folder)?).with_pooling(Pooling::Mean);
        let options = InitOptionsUserDefined::new().with_max_length(max_length);
        TextEmbedding::try_new_from_user_defined(model, options).map(|model| Self { model }).map_err(failed)
    }

    /// [n, 384], unit norm, for texts of similar length.
    pub(super) fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.model.embed(texts, Some(texts.len().max(1))).map_err(failed)
    }
}

fn failed(error: fastembed::Error) -> ModelError {
    ModelError::OnnxRuntime(error.to_string())
}

/// The files fastembed insists on; the last two are often left out of a model's package.
fn tokenizer_files(folder: &Path) -> Result<TokenizerFiles, ModelError> {
    let or = |name: &str, otherwise: &str| match folder.join(name) {
        path if path.is_file() => files::read(&path),
        _ => Ok(otherwise.as_bytes().to_vec()),
    };
    Ok(TokenizerFiles {
        tokenizer_file: files::read(&folder.join("tokenizer.json"))?,
        config_file: files::read(&folder.join("config.json"))?,
        special_tokens_map_file: or("special_tokens_map.json", "{}")?,
        tokenizer_config_file: or(
            "tokenizer_config.json",
            r#"{"model_max_length": 512, "pad_token": "[PAD]"}"#,
        )?,
    })
}

/// `ORT_DYLIB_PATH`, or the newest libonnxruntime in `onnxruntime/` within the model folder or beside it.
fn find_library(folder: &Path) -> Result<PathBuf, ModelError> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let beside = folder.canonicalize().ok().and_then(|whole| whole.parent().map(Path::to_path_buf));
    let places = [Some(folder.to_path_buf()), beside];
    let found = places.into_iter().flatten().filter_map(|place| newest_in(&place.join("onnxruntime"))).next();
    found.ok_or_else(|| {
        ModelError::OnnxRuntime(format!(
            "no onnxruntime/libonnxruntime.so* in {} or beside it",
            folder.display()
        ))
    })
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
        let library = place.path().join("onnxruntime/libonnxruntime.so.1.24.4");
        std::fs::write(&library, "").unwrap();
        std::fs::write(place.path().join("onnxruntime/libonnxruntime_providers_shared.so"), "").unwrap();
        assert_eq!(newest_in(&place.path().join("onnxruntime")), Some(library));
    }
}
