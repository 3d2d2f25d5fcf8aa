//! How each service is made from the configuration, and the set of those that run in this process.

use std::path::Path;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use unprompt_generator::Generator;
use unprompt_image_encoder::ImageEncoder;
use unprompt_image_encoder::claim_check::ClaimCheck;
use unprompt_index::{ConnectOptions, Layout, PromptIndex};
use unprompt_indexer::Indexer;
use unprompt_models::minilm::Engine;
use unprompt_models::picture::Limits;
use unprompt_models::stable_diffusion::GenerationParams;
use unprompt_models::{Revision, encoder};
use unprompt_predictor::{Encoder, HeadStore, Predictor, Retrieval, Settings};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::topics::Topic;
use unprompt_stream::config::Config;
use unprompt_stream::{KafkaConfig, Signals, Stage, health, run_stage};
use unprompt_text_encoder::TextEncoder;

use crate::cli::ServiceName;
use crate::context::{Context, ModelFolders};
use crate::heads::Heads;
use crate::registry;
use crate::waiting;

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
    // Kafka first: one that refuses us must be told of whatever else is away.
    if !waiting::for_topics(&[service], &wiring, &stop).await?
        || !registry::ready(service, &wiring, &stop).await?
        || !waiting::for_index(service, &wiring, &stop).await?
    {
        return Ok(());
    }
    // Followed until it is dropped, when the service ends.
    let heads = match service {
        ServiceName::Predictor => match Heads::follow(&wiring, &stop).await? {
            Some(heads) => Some(heads),
            None => return Ok(()),
        },
        _ => None,
    };
    let store = heads.as_ref().map(|heads| heads.store.clone());
    let signals = Signals { health: wiring.health.clone(), traces: wiring.context.traces(name)? };
    let (kafka, runtime, stopping) = (wiring.kafka.clone(), Handle::current(), stop.clone());
    let make = move || {
        checked_stage(service, &wiring, store, runtime, &stopping).map_err(|error| format!("{error:#}"))
    };
    let summary = run_stage(&kafka, runner, name, make, stop, signals)
        .await
        .with_context(|| format!("{name} stopped"))?;
    tracing::info!(service = name, ?summary, "service stopped");
    heads.map_or(Ok(()), |heads| heads.check())
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

/// The topics that it reads, known without building it.
pub fn inputs_of(service: ServiceName) -> &'static [Topic] {
    match service {
        ServiceName::Generator | ServiceName::TextEncoder => &[Topic::Prompts],
        ServiceName::ImageEncoder => &[Topic::Images],
        ServiceName::Indexer => &[Topic::PromptEmbeddings],
        ServiceName::Predictor => &[Topic::ImageEmbeddings],
    }
}

/// [`make_stage`], which must read what [`inputs_of`] says.
fn checked_stage(
    service: ServiceName,
    wiring: &Wiring,
    heads: Option<HeadStore>,
    runtime: Handle,
    stop: &CancellationToken,
) -> anyhow::Result<Box<dyn Stage>> {
    let stage = make_stage(service, wiring, heads, runtime, stop)?;
    anyhow::ensure!(
        stage.inputs() == inputs_of(service),
        "{} reads {:?}, not what is said of it elsewhere: a programming error",
        stage.name(),
        stage.inputs()
    );
    Ok(stage)
}

/// Builds a stage; this runs on the stage's own thread, because loading takes a while.
fn make_stage(
    service: ServiceName,
    wiring: &Wiring,
    heads: Option<HeadStore>,
    runtime: Handle,
    stop: &CancellationToken,
) -> anyhow::Result<Box<dyn Stage>> {
    let (context, codec) = (&wiring.context, wiring.context.codec()?);
    Ok(match service {
        ServiceName::Generator => Box::new(generator(context, codec)?),
        ServiceName::TextEncoder => Box::new(text_encoder(&context.models()?, context.engine()?, codec)?),
        ServiceName::ImageEncoder => Box::new(image_encoder(context, codec, runtime)?),
        ServiceName::Indexer => Box::new(indexer(wiring, &context.models()?, codec, runtime, stop)?),
        ServiceName::Predictor => {
            let heads = heads.context("the predictor has no head store")?;
            Box::new(predictor(wiring, &context.clip()?, heads, codec, runtime, stop)?)
        }
    })
}

/// Stable Diffusion as it is configured.
pub fn generator(context: &Context, codec: Codec) -> anyhow::Result<Generator> {
    let settings = &context.config.generator;
    let precision = settings.precision.parse().context("[generator] precision")?;
    let params = generation(&context.config)?;
    Ok(Generator::load(&context.sd2()?, precision, params, settings.batch, codec)?)
}

fn image_encoder(context: &Context, codec: Codec, runtime: Handle) -> anyhow::Result<ImageEncoder> {
    let config = &context.config;
    let claim_check = ClaimCheck::new(&config.claim_check, config.images.max_bytes, runtime)?;
    Ok(ImageEncoder::load(&context.encoders()?, limits(config), codec)?.with_claim_check(claim_check))
}

fn text_encoder(models: &ModelFolders, engine: Engine, codec: Codec) -> anyhow::Result<TextEncoder> {
    Ok(TextEncoder::load(&models.minilm, &models.clip, engine, codec)?)
}

fn indexer(
    wiring: &Wiring,
    models: &ModelFolders,
    codec: Codec,
    runtime: Handle,
    stop: &CancellationToken,
) -> anyhow::Result<Indexer> {
    let (clip, minilm) = (Revision::of_folder(&models.clip)?, Revision::of_folder(&models.minilm)?);
    let layout = Layout::new(clip.to_string(), encoder::dims(&models.clip)?, minilm.to_string())
        .profile(wiring.context.profile()?);
    waiting::opened(ServiceName::Indexer, &runtime, stop, || {
        let index = runtime.block_on(connect(wiring))?;
        Ok(Indexer::open(index, layout.clone(), codec.clone(), runtime.clone())?)
    })
}

fn predictor(
    wiring: &Wiring,
    clip: &Path,
    heads: HeadStore,
    codec: Codec,
    runtime: Handle,
    stop: &CancellationToken,
) -> anyhow::Result<Predictor> {
    let encoder = Encoder {
        pictures: encoder::vector_name(clip, wiring.context.config.models.clip_side)?,
        prompts: Revision::of_folder(clip)?.to_string(),
    };
    let index =
        waiting::opened(ServiceName::Predictor, &runtime, stop, || runtime.block_on(connect(wiring)))?;
    let predictor = &wiring.context.config.predictor;
    let retrieval = predictor.retrieval.parse::<Retrieval>().map_err(anyhow::Error::msg)?;
    let settings = Settings { k: predictor.k, neighbours: predictor.neighbours, retrieval };
    Ok(Predictor::new(index, heads, encoder, settings, codec, runtime))
}

/// A client of the index, which must answer.
pub async fn connect(wiring: &Wiring) -> anyhow::Result<PromptIndex> {
    let api_key = wiring.context.config.index.api_key.as_ref().map(|key| key.expose().to_owned().into());
    let options = ConnectOptions { api_key, ..ConnectOptions::default() };
    Ok(PromptIndex::connect(&wiring.qdrant_url, options).await?)
}

/// Limits on pictures, as configured.
pub fn limits(config: &Config) -> Limits {
    Limits { max_bytes: config.images.max_bytes, max_pixels: config.images.max_pixels }
}

/// How pictures are drawn, as configured.
pub fn generation(config: &Config) -> anyhow::Result<GenerationParams> {
    let generator = &config.generator;
    Ok(GenerationParams {
        scheduler: generator.scheduler.parse().context("[generator] scheduler")?,
        steps: generator.steps,
        guidance_scale: generator.guidance_scale,
        negative_prompt: generator.negative_prompt.clone(),
        height: generator.height,
        width: generator.width,
        output: generator.output,
        vae_tiles: generator.vae_tiles.parse().context("[generator] vae_tiles")?,
    })
}
