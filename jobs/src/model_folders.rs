//! Resolves `[models]` to folders: a path, the name of a published model, or the repository's tiny
//! world.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unprompt_model_store::{Manifest, Model, ModelStore, Part};
use unprompt_models::encoder::{TextTower, VisionSettings, VisionTower};
use unprompt_models::minilm::MiniLm;
use unprompt_models::places;
use unprompt_models::settings::ModelSettings;

use crate::JobError;

/// The name of the MiniLM that set-up downloads.
const MINILM: &str = "all-MiniLM-L6-v2";

/// The models of `[models]` and their folders. Clones share the list of checked models.
#[derive(Clone, Debug)]
pub struct ModelFolders {
    settings: ModelSettings,
    /// The folders of named models whose files have been checked.
    checked: Arc<Mutex<BTreeMap<String, PathBuf>>>,
}

impl ModelFolders {
    pub fn new(settings: ModelSettings) -> Self {
        Self { settings, checked: Arc::default() }
    }

    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// Returns the folder of the configured MiniLM, or of the one that set-up downloads.
    pub fn minilm(&self) -> Result<PathBuf, JobError> {
        self.folder(self.settings.minilm.as_deref().unwrap_or(Path::new(MINILM)), Part::Minilm)
    }

    /// Returns the folder of the first image encoder: the configured one, or the tiny world's.
    pub fn clip(&self) -> Result<PathBuf, JobError> {
        let given = self.settings.clip.as_deref();
        given.map_or_else(|| tiny_world("clip"), |given| self.folder(given, Part::Clip))
    }

    /// Returns the folder of Stable Diffusion: the configured one, or the tiny world's.
    pub fn sd2(&self) -> Result<PathBuf, JobError> {
        let given = self.settings.sd2.as_deref();
        given.map_or_else(|| tiny_world("sd2"), |given| self.folder(given, Part::Sd2))
    }

    /// Returns the folder and settings of every configured image encoder; [`Self::clip`] comes
    /// first.
    pub fn encoders(&self) -> Result<Vec<(PathBuf, VisionSettings)>, JobError> {
        let settings = &self.settings;
        let mut encoders = vec![(self.clip()?, settings.vision(settings.clip_side))];
        for encoder in &settings.encoders {
            encoders.push((self.folder(&encoder.folder, Part::Clip)?, settings.vision(encoder.side)));
        }
        Ok(encoders)
    }

    /// Checks that every model exists, and that named models match the published files.
    pub fn check(&self) -> Result<(), JobError> {
        self.minilm()?;
        self.sd2()?;
        self.encoders().map(drop)
    }

    /// Loads MiniLM on the configured engine.
    pub fn load_minilm(&self) -> Result<MiniLm, JobError> {
        Ok(MiniLm::load(&self.minilm()?, self.settings.engine)?)
    }

    /// Loads the text tower of the first image encoder.
    pub fn load_clip_text(&self) -> Result<TextTower, JobError> {
        Ok(TextTower::load(&self.clip()?, self.settings.engine)?)
    }

    /// Loads the vision tower of the first image encoder.
    pub fn load_clip_vision(&self) -> Result<VisionTower, JobError> {
        Ok(VisionTower::load(&self.clip()?, &self.settings.vision(self.settings.clip_side))?)
    }

    /// Returns the models known by name: the published ones, and those of `[models] manifest`.
    pub fn manifest(&self) -> Result<Manifest, JobError> {
        let published = Manifest::published()?;
        let Some(own) = &self.settings.manifest else { return Ok(published) };
        published
            .with(own)
            .map_err(|reason| JobError::ModelName { key: "manifest", reason: Box::new(reason) })
    }

    /// Returns the folder of a model given by name, after a check of its files, or a folder as
    /// given.
    ///
    /// A name with a slash is a path. A name without one may also be a folder, but a known model
    /// takes precedence.
    fn folder(&self, given: &Path, part: Part) -> Result<PathBuf, JobError> {
        let key = part.key();
        let name = given.to_str().filter(|name| !name.contains('/'));
        let manifest = self.manifest()?;
        match name.map(|name| manifest.model(name)) {
            Some(Ok(model)) if model.part != part => {
                Err(JobError::ModelPart { key, model: model.name.clone(), fits: model.part.key() })
            }
            Some(Ok(model)) => self.checked(model),
            Some(Err(reason)) if !given.exists() => {
                Err(JobError::ModelName { key, reason: Box::new(reason) })
            }
            _ => Ok(given.to_owned()),
        }
    }

    /// Returns a model's folder. Its files are checked once per process.
    fn checked(&self, model: &Model) -> Result<PathBuf, JobError> {
        let mut checked = self.checked.lock();
        if let Some(folder) = checked.get(&model.name) {
            return Ok(folder.clone());
        }
        let installed = || ModelStore::new(places::installed()?).path(model).ok();
        let folder = model_store().path(model).or_else(|missing| installed().ok_or(missing))?;
        checked.insert(model.name.clone(), folder.clone());
        Ok(folder)
    }
}

/// Returns the store of the models known by name.
pub fn model_store() -> ModelStore {
    ModelStore::new(store_folder())
}

/// Returns `$UNPROMPT_MODELS`, or a folder in the user's cache.
fn store_folder() -> PathBuf {
    places::fetched().unwrap_or_else(|| PathBuf::from(".cache/unprompt/models"))
}

/// Finds a checkpoint of the repository's tiny world, from the current folder, from the binary in
/// target/, or from the installed models.
fn tiny_world(name: &'static str) -> Result<PathBuf, JobError> {
    let here = std::env::current_dir().unwrap_or_default();
    let binary = std::env::current_exe().unwrap_or_default();
    let checkouts = here.ancestors().chain(binary.ancestors());
    let checkouts = checkouts.map(|folder| folder.join("models/tiny-world/checkpoints"));
    let mut folders = checkouts.chain(places::installed()).map(|folder| folder.join(name));
    let found = folders.find(|folder| folder.is_dir());
    found.ok_or_else(|| JobError::NoTinyModel { name, from: here.clone() })
}

#[cfg(test)]
mod tests {
    use unprompt_models::settings::FurtherEncoder;

    use super::*;

    fn models(change: impl FnOnce(&mut ModelSettings)) -> ModelFolders {
        let mut settings = ModelSettings {
            minilm: None,
            clip: None,
            clip_side: None,
            encoders: Vec::new(),
            sd2: None,
            manifest: None,
            engine: Default::default(),
            vision_engine: Default::default(),
            precision: Default::default(),
        };
        change(&mut settings);
        ModelFolders::new(settings)
    }

    #[test]
    fn the_default_model_is_the_tiny_world_and_a_folder_is_used_as_given() {
        let tiny = models(|_| ()).clip().unwrap();
        assert!(tiny.ends_with("models/tiny-world/checkpoints/clip"), "{}", tiny.display());
        let folder = tempfile::tempdir().unwrap();
        let mine = models(|settings| settings.clip = Some(folder.path().to_owned()));
        assert_eq!(mine.clip().unwrap(), folder.path());
    }

    #[test]
    fn the_first_encoder_is_clip_and_each_has_its_own_side() {
        let folder = tempfile::tempdir().unwrap();
        let models = models(|settings| {
            settings.clip_side = Some(64);
            settings.encoders = vec![FurtherEncoder { folder: folder.path().to_owned(), side: Some(96) }];
        });
        let encoders = models.encoders().unwrap();
        assert_eq!((encoders[0].1.side, encoders[1].1.side), (Some(64), Some(96)));
        assert_eq!(encoders[1].0, folder.path());
    }

    #[test]
    fn an_unknown_or_misplaced_model_name_error_names_its_key() {
        let unknown = models(|settings| settings.sd2 = Some("no-such-model".into())).sd2().unwrap_err();
        assert!(unknown.to_string().starts_with("[models] sd2: there is no model"), "{unknown}");
        let other = models(|settings| settings.clip = Some(MINILM.into())).clip().unwrap_err();
        assert!(
            other.to_string().contains("[models] clip") && other.to_string().contains("minilm"),
            "{other}"
        );
    }
}
