//! kill -9 in the middle of the stream: after a restart every picture has its prediction and every
//! prompt its point.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Filter, PromptIndex};
use unprompt_schemas::Uuid;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, KafkaConfig, committed_offsets};

use crate::stack::{
    Up, all_predicted, picture_record, png, predictions, prompt_record, prompts, publish, read, read_until,
};

/// The number of kills of the process.
const KILLS: usize = 4;
const PROMPTS_EACH: usize = 400;
const PICTURES_EACH: usize = 60;

async fn indexed(up: &Up) -> u64 {
    let index =
        PromptIndex::connect(&format!("http://{}", up.qdrant), ConnectOptions::default()).await.unwrap();
    index.count(&Filter::default()).await.unwrap_or(0)
}

/// Checks, right after the kill and before any service works again, that every committed offset has
/// a durable point.
async fn what_was_committed_is_indexed(data_dir: &Path) {
    let broker = EmbeddedBroker::start(&data_dir.join("broker"), 0).await.unwrap();
    let index = EmbeddedIndex::start(&data_dir.join("index"), 0).await.unwrap();
    let kafka = KafkaConfig::embedded(broker.brokers());
    let committed = committed_offsets(&kafka, "indexer", Topic::PromptEmbeddings).await.unwrap();
    let records = read(&kafka, Topic::PromptEmbeddings).await;
    let done =
        |record: &&InputRecord| committed.get(&record.partition).is_some_and(|next| record.offset < *next);
    let prompts: HashSet<_> = records.iter().filter(done).map(|record| record.key.clone()).collect();
    let client = PromptIndex::connect(&index.url(), ConnectOptions::default()).await.unwrap();
    let count = client.count(&Filter::default()).await.unwrap_or(0);
    assert!(count >= prompts.len() as u64, "{} prompts are committed, {count} are indexed", prompts.len());
    index.stop().await.unwrap();
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_process_is_killed_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut prompt_ids, mut pictures) = (HashSet::new(), HashSet::new());
    let mut struck_in_flight = 0;
    for round in 0..KILLS {
        let up = Up::start(folder.path());
        let new_prompts = prompts(100 + round as u64, PROMPTS_EACH, false);
        prompt_ids.extend(new_prompts.iter().map(|prompt| prompt.id()));
        publish(&up.kafka, new_prompts.iter().map(prompt_record).collect()).await;
        let mut records = Vec::new();
        for at in 0..PICTURES_EACH {
            let id = Uuid::from_u128((round * PICTURES_EACH + at) as u128 + 1);
            records.push(picture_record(png(at as u8 * 4, 255 - at as u8, round as u8 * 60), id));
            pictures.insert(id);
        }
        publish(&up.kafka, records).await;
        // At different points of the stream: early in the first round, later in each further one.
        tokio::time::sleep(Duration::from_millis(150 + 450 * round as u64)).await;
        let predicted = predictions(&read(&up.kafka, Topic::Predictions).await).len();
        let count = indexed(&up).await;
        assert!(
            count <= prompt_ids.len() as u64,
            "the index holds {count} points of {} prompts",
            prompt_ids.len()
        );
        if predicted < pictures.len() || count < prompt_ids.len() as u64 {
            struck_in_flight += 1;
        }
        up.kill();
        what_was_committed_is_indexed(folder.path()).await;
    }
    assert!(struck_in_flight > 0, "no kill struck while anything was in flight; the test proved nothing");

    let up = Up::start(folder.path());
    let records = read_until(&up.kafka, Topic::Predictions, "a prediction of every picture", |records| {
        all_predicted(records, &pictures)
    })
    .await;
    assert_eq!(predictions(&records).len(), pictures.len(), "predictions of pictures nobody published");
    assert!(read(&up.kafka, Topic::DeadLetters).await.is_empty(), "a good record went to the dead letters");
    read_until(&up.kafka, Topic::PromptEmbeddings, "every prompt's embedding", |records| {
        records.iter().map(|record| record.key.clone()).collect::<HashSet<_>>().len() == prompt_ids.len()
    })
    .await;
    for _ in 0..200 {
        if indexed(&up).await == prompt_ids.len() as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(
        indexed(&up).await,
        prompt_ids.len() as u64,
        "the index's count is that of the distinct prompts"
    );
    assert!(up.terminate(), "a graceful stop ends with success");
}
