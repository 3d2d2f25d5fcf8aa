//! Builds each service from the configuration, and runs a set of them in this process.

use std::panic::AssertUnwindSafe;

use anyhow::{Context as _, anyhow};
use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use unprompt_index::{Endpoint, IndexError, Layout};
use unprompt_models::{Revision, encoder};
use unprompt_predictor::{Encoder, FollowedHeads, HeadRequirements, HeadStore};
use unprompt_schemas::SchemaError;
use unprompt_stream::waiting::until_answered;
use unprompt_stream::{
    KafkaConfig, Service, Signals, Stage, StageWiring, StreamError, ensure_topics, health, run_stage,
};
use unprompt_text_encoder as text_encoder;
use {
    unprompt_generator as generator, unprompt_image_encoder as image_encoder, unprompt_indexer as indexer,
    unprompt_predictor as predictor,
};

use crate::cli::ServiceName;
use crate::context::Context;

/// The configuration and endpoints that services are built with.
#[derive(Clone, Debug)]
pub struct Wiring {
    pub context: Context,
    pub kafka: KafkaConfig,
    pub index: Endpoint,
    pub health: health::Health,
}

/// The services that run in this process. When one fails, all are stopped.
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

    /// Starts `service` with the wiring of [`Self::new`].
    pub fn spawn(&mut self, service: ServiceName) {
        self.spawn_wired(service, self.wiring.clone());
    }

    /// Starts `service` with another wiring, such as another topic prefix.
    pub fn spawn_wired(&mut self, service: ServiceName, wiring: Wiring) {
        let stop = self.stop.clone();
        let name = service.describe().name;
        let health = wiring.health.service(&format!("{}{name}", wiring.kafka.prefix));
        self.running.spawn(async move {
            // However it ends: the others are of no use without it.
            let _stops_all = stop.clone().drop_guard();
            let ran = AssertUnwindSafe(run(service, wiring, stop.clone())).catch_unwind().await;
            let done = match ran {
                Err(_) => Err(anyhow!("{name} panicked; the log says where")),
                Ok(Ok(())) if !stop.is_cancelled() => Err(anyhow!("{name} ended although nobody stopped it")),
                Ok(done) => done,
            };
            if let Err(error) = &done {
                health.fail(&format!("{error:#}"));
            }
            done
        });
    }

    /// Waits for all services to end and returns the first error.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        while let Some(ended) = self.running.join_next().await {
            let ended = ended.context("a service panicked").and_then(|done| done);
            first = first.and(ended);
        }
        first
    }
}

async fn run(name: ServiceName, wiring: Wiring, stop: CancellationToken) -> anyhow::Result<()> {
    let service = name.describe();
    // Kafka comes first: an error such as refused credentials must be reported even while other
    // endpoints are away.
    if !wait_for_topics(&[name], &wiring, &stop).await?
        || !wait_for_registry(service, &wiring, &stop).await?
        || !wait_for_index(service, &wiring, &stop).await?
    {
        return Ok(());
    }
    // The topic is followed until this is dropped, when the service ends.
    let heads = match service.needs.heads {
        true => match follow_heads(&wiring, &stop).await? {
            Some(heads) => Some(heads),
            None => return Ok(()),
        },
        false => None,
    };
    let store = heads.as_ref().map(|heads| heads.store.clone());
    run_to_end(name, wiring, store, stop).await?;
    heads.map_or(Ok(()), |heads| Ok(heads.check()?))
}

async fn run_to_end(
    name: ServiceName,
    wiring: Wiring,
    heads: Option<HeadStore>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let service = *name.describe();
    let runner = wiring.context.config.runner.for_service(service.name);
    let signals = Signals { health: wiring.health.clone(), traces: wiring.context.traces(service.name)? };
    let codec = wiring.context.codec()?;
    let stage = StageWiring { codec, runtime: Handle::current(), stop: stop.clone() };
    let kafka = wiring.kafka.clone();
    let load = move || build(name, &wiring, heads, &stage).map_err(|error| format!("{error:#}"));
    let summary = run_stage(&kafka, runner, service, load, stop, signals)
        .await
        .with_context(|| format!("{} stopped", service.name))?;
    tracing::info!(service = service.name, ?summary, "service stopped");
    Ok(())
}

/// Builds a stage. Runs on the stage's own thread, because loading takes a while.
fn build(
    name: ServiceName,
    wiring: &Wiring,
    heads: Option<HeadStore>,
    stage: &StageWiring,
) -> anyhow::Result<Box<dyn Stage>> {
    let context = &wiring.context;
    Ok(match name {
        ServiceName::Generator => Box::new(generator::build(&context.generator()?, stage)?),
        ServiceName::TextEncoder => Box::new(text_encoder::build(&context.text_encoder()?, stage)?),
        ServiceName::ImageEncoder => Box::new(image_encoder::build(&context.image_encoder()?, stage)?),
        ServiceName::Indexer => Box::new(indexer::build(&layout(context)?, &wiring.index, stage)?),
        ServiceName::Predictor => {
            let heads = heads.context("the predictor has no head store")?;
            let settings = &context.config.predictor;
            let (names, layout) = (encoder_names(context)?, layout(context)?);
            Box::new(predictor::build(settings, names, heads, &wiring.index, layout, stage)?)
        }
    })
}

/// Returns the layout of the collection for the configured models.
pub fn layout(context: &Context) -> anyhow::Result<Layout> {
    let folder = context.clip()?;
    let (clip, minilm) = (Revision::of_folder(&folder)?, Revision::of_folder(&context.minilm()?)?);
    let layout = Layout::new(clip.to_string(), encoder::dims(&folder)?, minilm.to_string());
    Ok(layout.profile(context.config.index.profile))
}

fn encoder_names(context: &Context) -> anyhow::Result<Encoder> {
    let clip = context.clip()?;
    Ok(Encoder {
        pictures: encoder::vector_name(&clip, context.config.models.clip_side)?,
        prompts: Revision::of_folder(&clip)?.to_string(),
        dims: encoder::dims(&clip)?,
        minilm: Revision::of_folder(&context.minilm()?)?.to_string(),
    })
}

async fn follow_heads(wiring: &Wiring, stop: &CancellationToken) -> anyhow::Result<Option<FollowedHeads>> {
    let context = wiring.context.clone();
    let requirements = tokio::task::spawn_blocking(move || head_requirements(&context)).await??;
    Ok(FollowedHeads::start(&wiring.kafka, wiring.context.codec()?, requirements, stop).await?)
}

fn head_requirements(context: &Context) -> anyhow::Result<HeadRequirements> {
    let Encoder { pictures, dims, minilm, .. } = encoder_names(context)?;
    let mut folders = vec![context.data_dir().join("heads")];
    folders.extend(context.config.predictor.head_folders.iter().cloned());
    Ok(HeadRequirements { encoder: pictures, dims, minilm, folders })
}

/// Waits until Kafka answers and has our topics. Returns false if `stop` came first.
///
/// # Errors
/// Errors that waiting does not resolve, such as refused credentials.
pub async fn wait_for_topics(
    services: &[ServiceName],
    wiring: &Wiring,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let names: Vec<&str> = services.iter().map(|service| service.describe().name).collect();
    names.iter().for_each(|name| not_ready_yet(name, wiring));
    let may_pass = |error: &StreamError| matches!(error, StreamError::Unreachable { .. });
    let ask = || ensure_topics(&wiring.kafka);
    Ok(until_answered(&names.join(", "), "Kafka", stop, may_pass, ask).await?)
}

/// Waits until the index answers. Returns at once for a service that does not need it, and false if
/// `stop` came first.
async fn wait_for_index(
    service: &Service,
    wiring: &Wiring,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    if !service.needs.index {
        return Ok(true);
    }
    not_ready_yet(service.name, wiring);
    let ask = || async { wiring.index.connect().await.map(drop) };
    Ok(until_answered(service.name, "the index", stop, IndexError::is_transient, ask).await?)
}

/// Prepares the schemas that the service needs before its first record. Waits for a registry that
/// is away, and fails if it refuses. Returns false if `stop` came first.
async fn wait_for_registry(
    service: &Service,
    wiring: &Wiring,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let (codec, prefix) = (wiring.context.codec()?, &wiring.kafka.prefix);
    let Some(client) = wiring.context.registry()? else { return Ok(true) };
    let prepare = service.needs.schema;
    let ask = || {
        let (codec, client, prefix) = (codec.clone(), client.clone(), prefix.clone());
        let asked = tokio::task::spawn_blocking(move || match prepare {
            Some(prepare) => prepare(&codec, &prefix),
            // The service writes no Avro and only reads records of other services.
            None => Ok(client.check()?),
        });
        async { Ok(asked.await.context("asking the schema registry")??) }
    };
    not_ready_yet(service.name, wiring);
    let may_pass =
        |error: &anyhow::Error| error.downcast_ref().is_some_and(|error: &SchemaError| error.is_transient());
    let answered = until_answered(service.name, "the schema registry", stop, may_pass, ask).await;
    answered.with_context(|| format!("{} did not start", service.name))
}

/// Registers the service with health, where it is not ready while it waits.
fn not_ready_yet(name: &str, wiring: &Wiring) {
    wiring.health.service(&format!("{}{name}", wiring.kafka.prefix));
}
