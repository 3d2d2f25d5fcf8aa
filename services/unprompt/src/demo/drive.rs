//! Runs the parts of the demo one after another. Each waits for the output of the services.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use unprompt_index::Filter;
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{Prediction, Prompt};
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::{InputRecord, KafkaConfig, Publisher, Start, TableReader, Tail, read_to_end};
use unprompt_trainer::Trained;

use super::HELD_OUT_PREFIX;
use super::examples;
use super::plan::Plan;
use super::report::{Counts, DemoReport, Seconds};
use crate::cli::{ServiceName, Train};
use crate::commands::evaluate::evaluate;
use crate::commands::publish::picture;
use crate::commands::train::train;
use crate::context::Context;
use crate::image_result::{ImageResult, image_result_of};
use crate::stack::Stack;
use unprompt_jobs::Progress;
use unprompt_jobs::evaluation::Evaluation;
use unprompt_jobs::import::prompt_record;

/// Time between checks of the progress of the services.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Number of times the predictor is asked whether it uses the head.
const HEAD_LOOKS: usize = 120;

/// Time limit for a single picture.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Runs every part and returns the report.
pub async fn all(stack: &mut Stack, plan: &Plan) -> anyhow::Result<DemoReport> {
    let mut seconds = Seconds::default();
    let context = stack.context.clone();
    let kafka = context.kafka();
    let prefix = format!("{}{HELD_OUT_PREFIX}", kafka.prefix.as_str());
    let held_out_kafka = KafkaConfig { prefix: Prefix::new(&prefix)?, ..kafka.clone() };
    stack.also(ServiceName::Generator, held_out_kafka.clone()).await?;

    let pictured =
        seconds.time("publish_prompts", publish_prompts(&context, &kafka, &held_out_kafka, plan)).await?;
    anyhow::ensure!(
        pictured == plan.to_draw() + plan.indexed_only.len() as u64,
        "not every prompt was published"
    );
    seconds.time("index", wait_for_index(&context, plan.to_index())).await?;
    seconds.time("generate", wait_for_pictures(&kafka, &held_out_kafka, plan)).await?;
    seconds
        .time("encode", wait_for_topic(&kafka, Topic::ImageEmbeddings, "encoded", plan.pictured.len() as u64))
        .await?;
    let trained = seconds.time("train", train_head(&context)).await?;
    let pictures = held_out_pictures(&held_out_kafka, plan).await?;
    let truth = seconds.time("predict", publish_held_out(&context, &kafka, &pictures)).await?;
    let counts = seconds.time("count", count(&context, &kafka, plan, &trained)).await?;
    let kept = context.data_dir().join("pictures");
    examples::keep_truth(&kept, &truth)?;
    let Evaluation { scores, scored } = seconds.time("evaluate", evaluate(&context, &truth)).await?;
    let examples = examples::keep(&kept, &pictures, &scored)?;
    Ok(DemoReport::new(counts, scores, examples, seconds))
}

async fn publish_prompts(
    context: &Context,
    kafka: &KafkaConfig,
    held_out: &KafkaConfig,
    plan: &Plan,
) -> anyhow::Result<u64> {
    let codec = context.codec()?;
    let published = publish_all(kafka, &codec, plan.pictured.iter().chain(&plan.indexed_only)).await?;
    Ok(published + publish_all(held_out, &codec, plan.held_out.iter()).await?)
}

async fn publish_all<'a>(
    kafka: &KafkaConfig,
    codec: &Codec,
    all: impl Iterator<Item = &'a Prompt>,
) -> anyhow::Result<u64> {
    let publisher = Publisher::new(kafka)?;
    let topic_name = kafka.prefix.name(Topic::Prompts);
    let records: Vec<_> =
        all.map(|prompt| prompt_record(codec, &topic_name, prompt)).collect::<Result<_, _>>()?;
    Ok(publisher.publish_many(records).await? as u64)
}

async fn wait_for_index(context: &Context, wanted: u64) -> anyhow::Result<()> {
    let index = context.index().await?;
    let progress = Progress::new("prompts indexed", Some(wanted));
    loop {
        // The indexer creates the collection at its start. Until then there is nothing to count.
        let count = index.count(&Filter::default()).await.unwrap_or(0);
        progress.set(count);
        if count >= wanted {
            progress.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn wait_for_pictures(kafka: &KafkaConfig, held_out: &KafkaConfig, plan: &Plan) -> anyhow::Result<()> {
    let progress = Progress::new("pictures drawn", Some(plan.to_draw()));
    let (known, unknown) = (Counter::start(kafka, Topic::Images)?, Counter::start(held_out, Topic::Images)?);
    loop {
        let drawn = known.seen() + unknown.seen();
        progress.set(drawn);
        if drawn >= plan.to_draw() {
            progress.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn wait_for_topic(kafka: &KafkaConfig, topic: Topic, name: &str, wanted: u64) -> anyhow::Result<()> {
    let (progress, counter) = (Progress::new(name, Some(wanted)), Counter::start(kafka, topic)?);
    loop {
        let records = counter.seen();
        progress.set(records);
        if records >= wanted {
            progress.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Counts a topic's records as they arrive. Offsets are no substitute, because transaction marks
/// take some.
struct Counter {
    seen: Arc<AtomicU64>,
    _reader: TableReader,
}

impl Counter {
    fn start(kafka: &KafkaConfig, topic: Topic) -> anyhow::Result<Self> {
        let seen = Arc::new(AtomicU64::new(0));
        let count = seen.clone();
        let mut next: HashMap<i32, i64> = HashMap::new();
        let reader = TableReader::start(kafka, topic, CancellationToken::new(), move |record| {
            // A reader that had to reopen the topic starts from the beginning again.
            let next = next.entry(record.partition).or_default();
            if record.offset >= *next {
                *next = record.offset + 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { seen, _reader: reader })
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

async fn train_head(context: &Context) -> anyhow::Result<Trained> {
    let args = Train { name: "ridge".into(), validation: 0.25, out: None };
    let trained = train(context, &args).await?;
    eprintln!("{:>22} on {} pictures, validated on {}", "head trained", trained.train, trained.validation);
    Ok(trained)
}

/// Publishes the held-out pictures as a user's pipeline would, and waits for a result for each.
async fn publish_held_out(
    context: &Context,
    kafka: &KafkaConfig,
    pictures: &[(Vec<u8>, String)],
) -> anyhow::Result<HashMap<Uuid, String>> {
    wait_for_head(context, kafka, &pictures.first().context("no picture was held out")?.0).await?;
    let publisher = Publisher::new(kafka)?;
    let mut truth = HashMap::new();
    let records = pictures.iter().map(|(bytes, text)| {
        let id = Uuid::new_v4();
        truth.insert(id, text.clone());
        picture(bytes.clone(), id)
    });
    publisher.publish_many(records).await?;
    let mut published = 0;
    read_to_end(kafka, &[Topic::Images], |_| published += 1).await?;
    wait_for_answers(kafka, published).await?;
    Ok(truth)
}

async fn wait_for_answers(kafka: &KafkaConfig, wanted: u64) -> anyhow::Result<()> {
    let progress = Progress::new("pictures answered", Some(wanted));
    let (predicted, dead) =
        (Counter::start(kafka, Topic::Predictions)?, Counter::start(kafka, Topic::DeadLetters)?);
    loop {
        let answered = predicted.seen() + dead.seen();
        progress.set(answered);
        if answered >= wanted {
            progress.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Publishes a picture repeatedly until a prediction uses a head, because the predictor follows
/// heads.v1 in its own time.
async fn wait_for_head(context: &Context, kafka: &KafkaConfig, bytes: &[u8]) -> anyhow::Result<()> {
    let (codec, publisher) = (context.codec()?, Publisher::new(kafka)?);
    let mut tail = Tail::new(kafka, &[Topic::Predictions], Start::End).await?;
    for _ in 0..HEAD_LOOKS {
        let id = Uuid::new_v4();
        publisher.publish(picture(bytes.to_vec(), id)).await?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, prediction_of(&codec, &mut tail, id)).await;
        if answer.context("a picture was not answered")??.head.is_some() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    anyhow::bail!("the predictor did not take the trained head into use; its log lines above say why")
}

async fn prediction_of(codec: &Codec, tail: &mut Tail, id: Uuid) -> anyhow::Result<Prediction> {
    loop {
        match image_result_of(codec, &tail.next().await?)? {
            Some(ImageResult::Prediction(prediction)) if prediction.image_id == id => return Ok(*prediction),
            _ => {}
        }
    }
}

/// Returns the pictures of the held-out generator, with their prompts.
async fn held_out_pictures(held_out: &KafkaConfig, plan: &Plan) -> anyhow::Result<Vec<(Vec<u8>, String)>> {
    let texts: HashMap<Uuid, &str> = plan
        .held_out
        .iter()
        .map(|prompt| (unprompt_schemas::identity::prompt_id(&prompt.text), prompt.text.as_str()))
        .collect();
    let mut pictures = BTreeMap::new();
    read_to_end(held_out, &[Topic::Images], |record| {
        if let Some((id, bytes)) = drawn(record) {
            pictures.insert(id, bytes);
        }
    })
    .await?;
    let with_text =
        pictures.into_iter().filter_map(|(id, bytes)| Some((bytes, (*texts.get(&id)?).to_owned())));
    Ok(with_text.collect())
}

fn drawn(record: InputRecord) -> Option<(Uuid, Vec<u8>)> {
    let event = ImageEvent::parse(&record.headers).ok()?;
    Some((event.prompt_id?, record.value?))
}

/// Counts records by reading the topics from the beginning, with its own consumer.
async fn count(
    context: &Context,
    kafka: &KafkaConfig,
    plan: &Plan,
    trained: &Trained,
) -> anyhow::Result<Counts> {
    let codec = context.codec()?;
    let mut published = HashSet::new();
    read_to_end(kafka, &[Topic::Images], |record| {
        if let Ok(event) = ImageEvent::parse(&record.headers) {
            published.insert(event.image_id(&record.topic_name, record.partition, record.offset));
        }
    })
    .await?;
    let (mut predicted, mut dead) = (HashSet::new(), HashSet::new());
    let (mut dead_letters, mut unreadable) = (0, None);
    read_to_end(kafka, &[Topic::Predictions, Topic::DeadLetters], |record| {
        dead_letters += u64::from(record.topic == Topic::DeadLetters);
        match image_result_of(&codec, &record) {
            Ok(Some(ImageResult::Prediction(prediction))) => drop(predicted.insert(prediction.image_id)),
            Ok(Some(ImageResult::DeadLetter { image_id, .. })) => drop(dead.insert(image_id)),
            Ok(None) => {}
            Err(error) => unreadable = Some(error),
        }
    })
    .await?;
    if let Some(error) = unreadable {
        return Err(error).context("counting the predictions");
    }
    let lost = published.iter().filter(|id| !predicted.contains(id) && !dead.contains(id)).count();
    let index = context.index().await.context("counting the prompts")?;
    Ok(Counts {
        prompts_indexed: index.count(&Filter::default()).await?,
        images_generated: plan.to_draw(),
        train: trained.train,
        validation: trained.validation,
        held_out: plan.held_out.len(),
        published: published.len(),
        predicted: published.intersection(&predicted).count(),
        dead_letters,
        lost,
    })
}
