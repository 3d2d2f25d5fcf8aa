//! What every command starts from: the configuration with its flags, and clients made from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};
use unprompt_image_encoder::EncoderFolder;
use unprompt_index::{Endpoint, PromptIndex};
use unprompt_model_store::{Manifest, Model, Part, Store};
use unprompt_models::encoder::VisionTower;
use unprompt_schemas::codec::Codec;
use unprompt_stream::config::load;
use unprompt_stream::{KafkaConfig, SchemaRegistry, Traces};

use crate::cli::{Global, Up};
use crate::config::{Config, defaults};
use crate::endpoints::Endpoints;
use crate::registry::Registry;

/// The configuration of this run.
#[derive(Clone, Debug)]
pub struct Context {
    pub config: Config,
    pub json: bool,
    /// A Kafka was named, by brokers or by profile, in whichever layer: no embedded broker is hosted or looked for.
    pub kafka_given: bool,
    registry: Registry,
    /// Models that are known by name and were looked at.
    checked: Arc<Mutex<BTreeMap<String, PathBuf>>>,
}

/// The folders of the models that embed prompts.
#[derive(Clone, Debug)]
pub struct ModelFolders {
    pub minilm: PathBuf,
    pub clip: PathBuf,
}

impl Context {
    /// Reads the layers; `up` holds the flags of commands that host servers.
    pub fn load(global: &Global, up: Option<&Up>, http_port: Option<u16>) -> anyhow::Result<Self> {
        let config: Config = load(&defaults(), global.config.as_deref(), flags(global, up, http_port))?;
        let kafka_given = config.kafka.is_elsewhere();
        Ok(Self {
            config,
            json: global.json,
            kafka_given,
            registry: Registry::default(),
            checked: Arc::default(),
        })
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.embedded.data_dir
    }

    /// Kafka as this command should reach it: where given, or the embedded broker that runs on the data directory.
    pub fn kafka(&self) -> KafkaConfig {
        let mut kafka = self.config.kafka.clone();
        if let (false, Some(address)) = (self.kafka_given, self.running().and_then(|up| up.kafka)) {
            kafka.brokers = address.to_string();
        }
        kafka
    }

    /// Qdrant's gRPC endpoint, found like [`Self::kafka`].
    pub fn qdrant_url(&self) -> String {
        let embedded = || match self.running().and_then(|up| up.qdrant) {
            Some(address) => format!("http://{address}"),
            None => format!("http://127.0.0.1:{}", self.config.embedded.index_port),
        };
        self.config.index.url.clone().unwrap_or_else(embedded)
    }

    /// Where the `unprompt up` of the data directory tells of its health, unless it works on another Kafka than was named.
    pub fn http_url(&self) -> Option<String> {
        let up = self.running().filter(|up| !self.kafka_given || up.kafka.is_none())?;
        Some(format!("http://{}", up.http))
    }

    /// Where the embedded index of the data directory's `unprompt up` listens, and in which process.
    pub fn running_index(&self) -> Option<(String, u32)> {
        let up = self.running()?;
        Some((format!("http://{}", up.qdrant?), up.pid))
    }

    fn running(&self) -> Option<Endpoints> {
        Endpoints::read(self.data_dir())
    }

    /// Where the prompt index answers, and with which key.
    pub fn index_endpoint(&self) -> Endpoint {
        self.config.index.endpoint(self.qdrant_url())
    }

    /// A client of the prompt index.
    pub async fn index(&self) -> anyhow::Result<PromptIndex> {
        Ok(self.index_endpoint().connect().await?)
    }

    /// The traces of `unprompt-<service>`, where a collector is configured.
    pub fn traces(&self, service: &str) -> anyhow::Result<Traces> {
        Ok(Traces::start(&self.config.telemetry, service)?)
    }

    /// How records are written and read: in Confluent framing where a schema registry is configured.
    pub fn codec(&self) -> anyhow::Result<Codec> {
        Ok(self.registry.codec(&self.config.registry)?)
    }

    /// The schema registry, where one is configured.
    pub fn registry(&self) -> anyhow::Result<Option<Arc<SchemaRegistry>>> {
        Ok(self.registry.client(&self.config.registry)?)
    }

    /// What the generator draws with, and how.
    pub fn generator(&self) -> anyhow::Result<unprompt_generator::Settings> {
        let section = self.config.generator.clone();
        Ok(unprompt_generator::Settings { model: self.sd2()?, section })
    }

    /// Which networks encode the prompts.
    pub fn text_encoder(&self) -> anyhow::Result<unprompt_text_encoder::Settings> {
        let ModelFolders { minilm, clip } = self.models()?;
        Ok(unprompt_text_encoder::Settings { minilm, clip, engine: self.config.models.engine })
    }

    /// Which networks encode the pictures, and which pictures are taken.
    pub fn image_encoder(&self) -> anyhow::Result<unprompt_image_encoder::Settings> {
        let (images, claim_check) = (self.config.images, self.config.claim_check.clone());
        Ok(unprompt_image_encoder::Settings { encoders: self.encoders()?, images, claim_check })
    }

    /// The vision tower whose space pictures and prompts share.
    pub fn clip_vision(&self) -> anyhow::Result<VisionTower> {
        Ok(VisionTower::load(&self.clip()?, &self.config.models.vision(self.config.models.clip_side))?)
    }

    /// All image encoders that are configured, the one above first.
    pub fn encoders(&self) -> anyhow::Result<Vec<EncoderFolder>> {
        let models = &self.config.models;
        let first = (self.clip()?, models.clip_side);
        let further = models
            .encoders
            .iter()
            .map(|encoder| Ok((self.folder(&encoder.folder, Part::Clip)?, encoder.side)));
        let encoders = std::iter::once(Ok(first)).chain(further);
        let settled = |(folder, side)| EncoderFolder { folder, settings: models.vision(side) };
        encoders.map(|encoder| encoder.map(settled)).collect()
    }

    /// Where the models are that embed prompts.
    pub fn models(&self) -> anyhow::Result<ModelFolders> {
        Ok(ModelFolders { minilm: self.minilm()?, clip: self.clip()? })
    }

    /// MiniLM as it is configured, or the one that is fetched at set-up.
    pub fn minilm(&self) -> anyhow::Result<PathBuf> {
        self.folder(self.config.models.minilm.as_deref().unwrap_or(Path::new(MINILM)), Part::Minilm)
    }

    /// The first image encoder as it is configured, or the tiny world's.
    pub fn clip(&self) -> anyhow::Result<PathBuf> {
        let given = self.config.models.clip.as_deref();
        given.map_or_else(|| tiny_world("clip"), |given| self.folder(given, Part::Clip))
    }

    /// Stable Diffusion as it is configured, or the tiny world's.
    pub fn sd2(&self) -> anyhow::Result<PathBuf> {
        let given = self.config.models.sd2.as_deref();
        given.map_or_else(|| tiny_world("sd2"), |given| self.folder(given, Part::Sd2))
    }

    /// Whether every model is where it is said to be, and those that are named are what was published.
    pub fn check_models(&self) -> anyhow::Result<()> {
        self.minilm()?;
        self.sd2()?;
        self.encoders().map(drop)
    }

    /// The models that are known by name.
    pub fn manifest(&self) -> anyhow::Result<Manifest> {
        let published = Manifest::published()?;
        let own = self.config.models.manifest.as_deref();
        own.map_or(Ok(published.clone()), |own| published.with(own)).context("[models] manifest")
    }

    /// The folder of the model that bears the name, all of whose files are then the published ones, or a folder as it was given.
    fn folder(&self, given: &Path, part: Part) -> anyhow::Result<PathBuf> {
        let key = part.key();
        // What has a slash is a path; a name without one may be a folder too, but a known model comes first.
        let name = given.to_str().filter(|name| !name.contains('/'));
        let manifest = self.manifest()?;
        match name.map(|name| manifest.model(name)) {
            Some(Ok(model)) if model.part != part => {
                bail!("[models] {key}: {} is for {}", model.name, model.part.key())
            }
            Some(Ok(model)) => self.checked(model),
            Some(Err(unknown)) if !given.exists() => Err(unknown).with_context(|| format!("[models] {key}")),
            _ => Ok(given.to_owned()),
        }
    }

    /// A model's folder; what was right once is right for as long as this process lives.
    fn checked(&self, model: &Model) -> anyhow::Result<PathBuf> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = checked.get(&model.name) {
            return Ok(folder.clone());
        }
        let installed = || Store::new(installed()?).path(model).ok();
        let folder = store().path(model).or_else(|missing| installed().ok_or(missing))?;
        checked.insert(model.name.clone(), folder.clone());
        Ok(folder)
    }
}

const MINILM: &str = "all-MiniLM-L6-v2";

/// Where models that are known by name are kept.
pub fn store() -> Store {
    Store::new(models_cache())
}

/// $UNPROMPT_MODELS, or the user's cache.
fn models_cache() -> PathBuf {
    if let Some(folder) = std::env::var_os("UNPROMPT_MODELS") {
        return folder.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.unwrap_or_else(home).join("unprompt/models")
}

/// A checkpoint of the tiny world: in the repository, seen from a folder of it or from the binary's place in target/, or where
/// `make install` put it.
fn tiny_world(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("the current folder cannot be told")?;
    let binary = std::env::current_exe().unwrap_or_default();
    let checkouts = here.ancestors().chain(binary.ancestors());
    let checkouts = checkouts.map(|folder| folder.join("models/tiny-world/checkpoints"));
    let found = checkouts.chain(installed()).map(|folder| folder.join(name)).find(|folder| folder.is_dir());
    found.with_context(|| {
        format!(
            "no [models] {name} is configured, and the tiny one is found neither in a repository around {} nor in the \
             prefix of this binary",
            here.display()
        )
    })
}

/// PREFIX/share/unprompt/models of a binary that is PREFIX/bin/unprompt.
fn installed() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?;
    let models = binary.parent()?.parent()?.join("share/unprompt/models");
    models.is_dir().then_some(models)
}

fn flags(global: &Global, up: Option<&Up>, http_port: Option<u16>) -> Value {
    let mut flags = Map::new();
    if let Some(brokers) = &global.kafka {
        set(&mut flags, "kafka", "brokers", json!(brokers));
    }
    if let Some(url) = &global.qdrant {
        set(&mut flags, "index", "url", json!(url));
    }
    if let Some(folder) = &global.data_dir {
        set(&mut flags, "embedded", "data_dir", json!(folder));
    }
    if let Some(filter) = &global.log {
        set(&mut flags, "log", "filter", json!(filter));
    }
    let ports = [
        ("embedded", "broker_port", up.and_then(|up| up.broker_port)),
        ("embedded", "index_port", up.and_then(|up| up.index_port)),
        ("http", "port", http_port.or_else(|| up.and_then(|up| up.http_port))),
    ];
    for (section, key, port) in ports {
        if let Some(port) = port {
            set(&mut flags, section, key, json!(port));
        }
    }
    Value::Object(flags)
}

fn set(flags: &mut Map<String, Value>, section: &str, key: &str, value: Value) {
    let section = flags.entry(section).or_insert_with(|| json!({}));
    if let Some(section) = section.as_object_mut() {
        section.insert(key.to_owned(), value);
    }
}
