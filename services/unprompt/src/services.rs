//! How each service is made from the configuration, and the set of those that run in this process.

use std::fmt::Display;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use unprompt_generator::Generator;
use unprompt_image_encoder::ImageEncoder;
use unprompt_index::{ConnectOptions, Layout, PromptIndex};
use unprompt_indexer::Indexer;
use unprompt_models::clip::{ClipText, ClipVision};
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_models::picture::Limits;
use unprompt_models::stable_diffusion::GenerationParams;
use unprompt_predictor::{HeadStore, Predictor, Retrieval, Settings};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Head;
use unprompt_schemas::topics::Topic;
use unprompt_stream::config::Config;
use unprompt_stream::{InputRecord, KafkaConfig, Stage, TableReader, health, run_stage};
use unprompt_text_encoder::TextEncoder;

use crate::cli::ServiceName;
use crate::context::{Context, ModelFolders};

/// What services are wired to.
#[derive(Clone, Debug)]
pub struct Wiring {
    pub context: Context,
    pub kafka: KafkaConfig,
    pub qdrant_url: String,
    pub health: health::Health,
}

/// Services running in this process; when one fails, all are stopped.
#[derive(Debug)]
pub struct Services {
    wiring: Wiring,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
}

impl Services {
    pub fn new(wiring: Wiring, stop: CancellationToken) -> Self {
        Self { wiring, stop, running: JoinSet::new() }
    }

    /// Starts `service` with the wiring given at the start.
    pub fn spawn(&mut self, service: ServiceName) {
        self.spawn_wired(service, self.wiring.clone());
    }

    /// Starts `service` with another wiring, such as another topic prefix.
    pub fn spawn_wired(&mut self, service: ServiceName, wiring: Wiring) {
        let stop = self.stop.clone();
        self.running.spawn(async move {
            let done = run(service, wiring, stop.clone()).await;
            if done.is_err() {
                stop.cancel();
            }
            done
        });
    }

    /// Waits for all of them; the first error is the answer, after the others have stopped.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        while let Some(ended) = self.running.join_next().await {
            let ended = ended.context("a service panicked").and_then(|done| done);
            first = first.and(ended);
        }
        first
    }
}

async fn run(service: ServiceName, wiring: Wiring, stop: CancellationToken) -> anyhow::Result<()> {
    let name = name_of(service);
    let runner = wiring.context.config.runner.for_service(name);
    // The reader follows heads.v1 until it is dropped, when the service ends.
    let (heads, _reader) = match service {
        ServiceName::Predictor => {
            let (heads, reader) = follow_heads(&wiring, &stop).await?;
            (Some(heads), Some(reader))
        }
        _ => (None, None),
    };
    let (kafka, health) = (wiring.kafka.clone(), wiring.health.clone());
    let runtime = Handle::current();
    let make = move || make_stage(service, &wiring, heads, runtime).map_err(|error| format!("{error:#}"));
    let summary = run_stage(&kafka, runner, name, make, stop, health)
        .await
        .with_context(|| format!("{name} stopped"))?;
    tracing::info!(service = name, ?summary, "service stopped");
    Ok(())
}

/// The name that its consumer group, its metrics and its section of `[runner]` bear.
pub fn name_of(service: ServiceName) -> &'static str {
    match service {
        ServiceName::Generator => "generator",
        ServiceName::TextEncoder => "text-encoder",
        ServiceName::ImageEncoder => "image-encoder",
        ServiceName::Indexer => "indexer",
        ServiceName::Predictor => "predictor",
    }
}

/// Builds a stage; this runs on the stage's own thread, because loading takes a while.
fn make_stage(
    service: ServiceName,
    wiring: &Wiring,
    heads: Option<HeadStore>,
    runtime: Handle,
) -> anyhow::Result<Box<dyn Stage>> {
    let (config, codec) = (&wiring.context.config, wiring.context.codec()?);
    let models = wiring.context.models()?;
    Ok(match service {
        ServiceName::Generator => {
            Box::new(Generator::load(&models.sd2, generation(config), config.generator.batch, codec)?)
        }
        ServiceName::TextEncoder => Box::new(text_encoder(&models, wiring.context.engine()?, codec)?),
        ServiceName::ImageEncoder => Box::new(ImageEncoder::load(&models.clip, limits(config), codec)?),
        ServiceName::Indexer => Box::new(indexer(wiring, &models, codec, runtime)?),
        ServiceName::Predictor => {
            let heads = heads.context("the predictor has no head store")?;
            Box::new(predictor(wiring, &models, heads, codec, runtime)?)
        }
    })
}

fn text_encoder(models: &ModelFolders, engine: Engine, codec: Codec) -> anyhow::Result<TextEncoder> {
    Ok(TextEncoder::load(&models.minilm, &models.clip, engine, codec)?)
}

fn indexer(wiring: &Wiring, models: &ModelFolders, codec: Codec, runtime: Handle) -> anyhow::Result<Indexer> {
    let clip = ClipText::load(&models.clip)?;
    let minilm = MiniLm::load(&models.minilm, wiring.context.engine()?)?;
    let layout = Layout::new(clip.revision().to_string(), clip.dims(), minilm.revision().to_string());
    let index = runtime.block_on(connect(wiring))?;
    Ok(Indexer::open(index, layout, codec, runtime)?)
}

fn predictor(
    wiring: &Wiring,
    models: &ModelFolders,
    heads: HeadStore,
    codec: Codec,
    runtime: Handle,
) -> anyhow::Result<Predictor> {
    let encoder = ClipVision::load(&models.clip)?.revision().to_string();
    let index = runtime.block_on(connect(wiring))?;
    let predictor = &wiring.context.config.predictor;
    let retrieval = predictor.retrieval.parse::<Retrieval>().map_err(anyhow::Error::msg)?;
    let settings = Settings { k: predictor.k, neighbours: predictor.neighbours, retrieval };
    Ok(Predictor::new(index, heads, encoder, settings, codec, runtime))
}

async fn connect(wiring: &Wiring) -> anyhow::Result<PromptIndex> {
    let api_key = wiring.context.config.index.api_key.as_ref().map(|key| key.expose().to_owned().into());
    let options = ConnectOptions { api_key, ..ConnectOptions::default() };
    Ok(PromptIndex::connect(&wiring.qdrant_url, options).await?)
}

/// A store that follows heads.v1 from its beginning; returns when it has caught up.
async fn follow_heads(wiring: &Wiring, stop: &CancellationToken) -> anyhow::Result<(HeadStore, TableReader)> {
    let clip = wiring.context.models()?.clip;
    let encoder = tokio::task::spawn_blocking(move || ClipVision::load(&clip)).await??.revision().to_string();
    let (store, codec) = (HeadStore::new(&encoder), wiring.context.codec()?);
    let announced = store.clone();
    let reader = TableReader::start(&wiring.kafka, Topic::Heads, stop.clone(), move |record| {
        take_head(&announced, &codec, &record);
    })?;
    reader.caught_up().await?;
    Ok((store, reader))
}

/// A head that cannot be used is refused aloud, and the one in use stays.
fn take_head(store: &HeadStore, codec: &Codec, record: &InputRecord) {
    let Some(value) = record.value.as_deref() else {
        let name = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
        return store.withdraw(&name);
    };
    match codec.decode::<Head>(value) {
        Err(error) => refused(&error),
        Ok(head) => store.announce(head).unwrap_or_else(|error| refused(&error)),
    }
}

fn refused(error: &dyn Display) {
    tracing::warn!(%error, "announced head refused");
}

/// Limits on pictures, as configured.
pub fn limits(config: &Config) -> Limits {
    Limits { max_bytes: config.images.max_bytes, max_pixels: config.images.max_pixels }
}

/// How pictures are drawn, as configured.
pub fn generation(config: &Config) -> GenerationParams {
    GenerationParams {
        steps: config.generator.steps,
        guidance_scale: config.generator.guidance_scale,
        ..GenerationParams::default()
    }
}
