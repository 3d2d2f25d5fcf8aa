//! The starting point of every command: the configuration with its flags, and clients built from
//! it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use unprompt_image_encoder::EncoderFolder;
use unprompt_index::{Endpoint, PromptIndex};
use unprompt_jobs::ModelFolders;
use unprompt_model_store::Manifest;
use unprompt_models::encoder::VisionTower;
use unprompt_schemas::codec::Codec;
use unprompt_stream::config::{LostOffsets, load};
use unprompt_stream::data_dir::DataDir;
use unprompt_stream::{KafkaConfig, SchemaRegistry, Traces};

use crate::cli::{From, Global, Up};
use crate::config::{Config, defaults};
use crate::endpoints::Endpoints;
use crate::registry::SharedRegistry;

/// The configuration of this run, with the clients that share it.
#[derive(Clone, Debug)]
pub struct Context {
    pub config: Config,
    pub json: bool,
    /// True if any layer names a Kafka, by its brokers or its profile. No embedded broker is then
    /// hosted or looked for.
    pub kafka_given: bool,
    registry: SharedRegistry,
    models: ModelFolders,
}

impl Context {
    /// Loads all layers. `hosting` holds the flags of commands that host services.
    pub fn load(global: &Global, hosting: &Hosting) -> anyhow::Result<Self> {
        let config: Config = load(&defaults(), global.config.as_deref(), flags(global, hosting))?;
        let kafka_given = config.kafka.is_elsewhere();
        let models = ModelFolders::new(config.models.clone());
        Ok(Self { config, json: global.json, kafka_given, registry: SharedRegistry::default(), models })
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.embedded.data_dir
    }

    /// Returns how this command reaches Kafka: at the configured brokers, or at the embedded broker
    /// that runs on the data directory.
    pub fn kafka(&self) -> KafkaConfig {
        let mut kafka = self.config.kafka.clone();
        if let (false, Some(address)) = (self.kafka_given, self.running().and_then(|up| up.kafka)) {
            kafka.brokers = address.to_string();
        }
        kafka
    }

    /// Returns Qdrant's gRPC endpoint, found like [`Self::kafka`].
    pub fn qdrant_url(&self) -> String {
        let embedded = || match self.running().and_then(|up| up.qdrant) {
            Some(address) => format!("http://{address}"),
            None => format!("http://127.0.0.1:{}", self.config.embedded.index_port),
        };
        self.config.index.url.clone().unwrap_or_else(embedded)
    }

    /// Returns the health address of the `unprompt up` on the data directory. None if that process
    /// works on another Kafka than the configured one.
    pub fn http_url(&self) -> Option<String> {
        let up = self.running().filter(|up| !self.kafka_given || up.kafka.is_none())?;
        Some(format!("http://{}", up.http))
    }

    /// Returns the address and the process of the embedded index that the data directory's
    /// `unprompt up` hosts.
    pub fn running_index(&self) -> Option<(String, u32)> {
        let up = self.running()?;
        Some((format!("http://{}", up.qdrant?), up.pid))
    }

    /// The addresses of the `unprompt up` that holds the data directory now. Those that an earlier
    /// one left may belong to another process, with other data.
    fn running(&self) -> Option<Endpoints> {
        Endpoints::read(self.data_dir()).filter(|up| DataDir::is_held_by(self.data_dir(), up.pid))
    }

    /// Returns the endpoint of the prompt index, with its API key.
    pub fn index_endpoint(&self) -> Endpoint {
        self.config.index.endpoint(self.qdrant_url())
    }

    /// Connects to the prompt index.
    pub async fn index(&self) -> anyhow::Result<PromptIndex> {
        Ok(self.index_endpoint().connect().await?)
    }

    /// Starts the traces of `unprompt-<service>`, which are exported only if a collector is
    /// configured.
    pub fn traces(&self, service: &str) -> anyhow::Result<Traces> {
        Ok(Traces::start(&self.config.telemetry, service)?)
    }

    /// Returns the codec for records: Confluent framing if a schema registry is configured.
    pub fn codec(&self) -> anyhow::Result<Codec> {
        Ok(self.registry.codec(&self.config.registry)?)
    }

    /// Returns the schema registry, if one is configured.
    pub fn registry(&self) -> anyhow::Result<Option<Arc<SchemaRegistry>>> {
        Ok(self.registry.client(&self.config.registry)?)
    }

    /// Returns the generator's model and settings.
    pub fn generator(&self) -> anyhow::Result<unprompt_generator::Settings> {
        let section = self.config.generator.clone();
        Ok(unprompt_generator::Settings { model: self.sd2()?, section })
    }

    /// Returns the networks that encode the prompts.
    pub fn text_encoder(&self) -> anyhow::Result<unprompt_text_encoder::Settings> {
        let (minilm, clip) = (self.minilm()?, self.clip()?);
        Ok(unprompt_text_encoder::Settings { minilm, clip, engine: self.config.models.engine })
    }

    /// Returns the networks that encode the pictures, and the limits of pictures.
    pub fn image_encoder(&self) -> anyhow::Result<unprompt_image_encoder::Settings> {
        let (images, claim_check) = (self.config.images, self.config.claim_check.clone());
        Ok(unprompt_image_encoder::Settings { encoders: self.encoders()?, images, claim_check })
    }

    /// Returns the models of `[models]` with their folders.
    pub fn models(&self) -> &ModelFolders {
        &self.models
    }

    /// Loads the vision tower of the encoder whose space pictures and prompts share.
    pub fn clip_vision(&self) -> anyhow::Result<VisionTower> {
        Ok(self.models.load_clip_vision()?)
    }

    /// Returns all configured image encoders, that of [`Self::clip`] first.
    pub fn encoders(&self) -> anyhow::Result<Vec<EncoderFolder>> {
        let encoders = self.models.encoders()?.into_iter();
        Ok(encoders.map(|(folder, settings)| EncoderFolder { folder, settings }).collect())
    }

    /// Returns MiniLM's folder.
    pub fn minilm(&self) -> anyhow::Result<PathBuf> {
        Ok(self.models.minilm()?)
    }

    /// Returns the folder of the first image encoder.
    pub fn clip(&self) -> anyhow::Result<PathBuf> {
        Ok(self.models.clip()?)
    }

    /// Returns Stable Diffusion's folder.
    pub fn sd2(&self) -> anyhow::Result<PathBuf> {
        Ok(self.models.sd2()?)
    }

    /// Checks that every model is present and that named models match their published checksums.
    pub fn check_models(&self) -> anyhow::Result<()> {
        Ok(self.models.check()?)
    }

    /// Returns the manifest of the models that are known by name.
    pub fn manifest(&self) -> anyhow::Result<Manifest> {
        Ok(self.models.manifest()?)
    }
}

/// The flags of a command that hosts services.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hosting {
    pub broker_port: Option<u16>,
    pub index_port: Option<u16>,
    pub http_port: Option<u16>,
    pub from: Option<From>,
}

impl Hosting {
    pub fn of(up: &Up) -> Self {
        let Up { broker_port, index_port, http_port, from } = *up;
        Self { broker_port, index_port, http_port, from }
    }
}

fn flags(global: &Global, hosting: &Hosting) -> Value {
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
    if let Some(from) = hosting.from {
        let lost_offsets = match from {
            From::Earliest => LostOffsets::Earliest,
            From::Latest => LostOffsets::Latest,
        };
        set(&mut flags, "runner", "lost_offsets", json!(lost_offsets));
    }
    let ports = [
        ("embedded", "broker_port", hosting.broker_port),
        ("embedded", "index_port", hosting.index_port),
        ("http", "port", hosting.http_port),
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
