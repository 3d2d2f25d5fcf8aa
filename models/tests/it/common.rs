//! Locates and reads models and references.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use unprompt_models::minilm::Engine;

pub fn crate_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn checkpoint(name: &str) -> PathBuf {
    crate_folder().join("tiny-world/checkpoints").join(name)
}

pub fn reference_folder() -> PathBuf {
    crate_folder().join("tests/reference")
}

/// Returns the MiniLM folder. Panics with the command that fetches it if it is missing.
pub fn minilm_folder() -> PathBuf {
    let models = std::env::var_os("UNPROMPT_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        cache.join("unprompt/models")
    });
    let folder = models.join("all-MiniLM-L6-v2");
    assert!(
        folder.join("model.safetensors").is_file(),
        "MiniLM is not in {}: run models/tools/fetch_minilm.sh {}",
        folder.display(),
        models.display()
    );
    folder
}

/// Returns the engines that this build has on this platform. Each of them must load.
pub fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::Candle];
    if cfg!(feature = "onnx") {
        engines.push(Engine::Onnx);
    }
    if cfg!(all(feature = "onnx", target_os = "linux", target_arch = "x86_64")) {
        engines.extend([Engine::OpenVino, Engine::OpenVinoBf16]);
    }
    engines
}

pub fn texts(name: &str) -> Vec<String> {
    serde_json::from_slice(&std::fs::read(reference_folder().join(name)).unwrap()).unwrap()
}

/// A file of reference tensors.
pub struct Reference {
    name: &'static str,
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
    metadata: HashMap<String, String>,
}

impl Reference {
    pub fn read(name: &'static str) -> Self {
        let bytes = std::fs::read(reference_folder().join(format!("{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = parsed.tensors().into_iter().map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::U8 => view.data().iter().map(|&value| f32::from(value)).collect(),
                Dtype::F32 => {
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            (name, (view.shape().to_vec(), values))
        });
        Self { name, tensors: tensors.collect(), metadata: header.metadata().clone().unwrap_or_default() }
    }

    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    pub fn values(&self, tensor: &str) -> &[f32] {
        &self.tensors[tensor].1
    }

    pub fn shape(&self, tensor: &str) -> &[usize] {
        &self.tensors[tensor].0
    }

    pub fn rows(&self, tensor: &str) -> Vec<Vec<f32>> {
        self.values(tensor).chunks_exact(self.shape(tensor)[1]).map(<[f32]>::to_vec).collect()
    }

    pub fn metadata(&self, key: &str) -> &str {
        &self.metadata[key]
    }

    /// Asserts that the reference was made with these weights. With other weights, comparisons
    /// would fail without a fault in the code.
    pub fn must_be_of(&self, folder: &Path) {
        let ours = unprompt_models::Revision::of_folder(folder).unwrap();
        assert_eq!(
            self.metadata("revision"),
            ours.revision,
            "{} has changed since its references were made: run models/tools/make_references.py {}",
            folder.display(),
            self.name
        );
    }
}
