//! The text networks: each engine alone, and the text-encoder from topic to topic. It knows no
//! peers.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use unprompt_benchmarks::{checkpoint, minilm};
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_models::encoder::TextTower;
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{
    Health, KafkaConfig, OutputRecord, Publisher, RunnerConfig, Stage, Start, Tail, ensure_topics, run_stage,
};
use unprompt_text_encoder::TextEncoder;

use crate::best_rate;

/// A record that takes longer means a defect, not a slow engine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Texts for the warm-up of the engine and the topics.
const WARM_UP: usize = 64;

/// The rate of each engine. Writes the network to `folder` as graph.onnx, and the vectors of each
/// engine as <engine>.f32.
pub fn engines(texts: &[&str], folder: &Path) -> anyhow::Result<Value> {
    std::fs::write(folder.join("graph.onnx"), MiniLm::onnx_graph(&minilm())?)?;
    let mut engines = serde_json::Map::new();
    for wanted in [Engine::Auto, Engine::Onnx, Engine::Candle] {
        let mut model = MiniLm::load(&minilm(), wanted)?;
        let vectors = model.embed(texts)?.concat();
        let bytes: Vec<u8> = vectors.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{wanted}.f32")), bytes)?;
        let rate = best_rate(texts.len(), || model.embed(texts).map(drop))?;
        engines.insert(wanted.to_string(), json!({"engine": model.engine_name(), "rate": rate}));
    }
    Ok(engines.into())
}

/// Rates of both networks of the text-encoder alone, and of the service with default settings from
/// prompts.v1 to prompt-embeddings.v1 on the embedded broker.
///
/// Their rounds take turns, so that other load on the machine favours neither.
pub fn text_encoder(texts: &[&str]) -> anyhow::Result<Value> {
    let (mut minilm, clip) =
        (MiniLm::load(&minilm(), Engine::Auto)?, TextTower::load(&checkpoint("clip"), Engine::Auto)?);
    let mut bare =
        |texts: &[&str]| anyhow::Ok(minilm.embed(texts).and_then(|_| clip.embed(texts)).map(drop)?);
    Runtime::new()?.block_on(in_turns(texts, &mut bare))
}

async fn in_turns(
    texts: &[&str],
    bare: &mut impl FnMut(&[&str]) -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let broker = EmbeddedBroker::start(folder.path(), 0).await?;
    let kafka = KafkaConfig::embedded(broker.brokers());
    ensure_topics(&kafka).await?;
    let (stop, running) = (CancellationToken::new(), kafka.clone());
    let (stage_stop, runner) = (stop.clone(), RunnerConfig { batch_records: 512, ..RunnerConfig::default() });
    let service = tokio::spawn(async move {
        run_stage(&running, runner, unprompt_text_encoder::SERVICE, load, stage_stop, Health::default()).await
    });
    let publisher = Publisher::new(&kafka)?;
    let mut tail = Tail::new(&kafka, &[Topic::PromptEmbeddings], Start::End).await?;
    let few = &texts[..WARM_UP.min(texts.len())];
    through(&publisher, &mut tail, few).await?;
    bare(few)?;
    let rate = |began: Instant| texts.len() as f64 / began.elapsed().as_secs_f64();
    let (mut alone, mut topics) = (0.0_f64, 0.0_f64);
    for _ in 0..crate::ROUNDS {
        let began = Instant::now();
        bare(texts)?;
        alone = alone.max(rate(began));
        let began = Instant::now();
        through(&publisher, &mut tail, texts).await?;
        topics = topics.max(rate(began));
    }
    stop.cancel();
    service.await??;
    broker.stop().await?;
    Ok(json!({"bare": alone, "topics": topics}))
}

fn load() -> Result<Box<dyn Stage>, unprompt_models::ModelError> {
    let stage = TextEncoder::load(&minilm(), &checkpoint("clip"), Engine::Auto, Codec::single_object())?;
    Ok(Box::new(stage))
}

/// Publishes the texts and reads their vectors at the other end.
async fn through(publisher: &Publisher, tail: &mut Tail, texts: &[&str]) -> anyhow::Result<()> {
    let codec = Codec::single_object();
    let record = |text: &&str| {
        let prompt = Prompt {
            text: (*text).to_owned(),
            source: "bench".into(),
            seeds: Vec::new(),
            attributes: Default::default(),
        };
        let value = Some(codec.encode(Topic::Prompts.base_name(), &prompt)?);
        Ok(OutputRecord { topic: Topic::Prompts, key: None, value, headers: Vec::new() })
    };
    let records = texts.iter().map(record).collect::<anyhow::Result<Vec<_>>>()?;
    let taken = async {
        for at in 0..texts.len() {
            let next = tokio::time::timeout(PATIENCE, tail.next()).await;
            next.with_context(|| format!("record {at} does not come"))??;
        }
        anyhow::Ok(())
    };
    let (published, taken) = tokio::join!(publisher.publish_many(records), taken);
    anyhow::ensure!(published? == texts.len(), "not every prompt was published");
    taken
}
