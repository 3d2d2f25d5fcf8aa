//! Untrusted records: each is predicted or becomes a dead letter, the services continue, and they
//! restart with all of these records in their topics.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::Path;

use image::{GrayImage, ImageFormat};
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::records::{Head, ImageEmbedding, Prompt, PromptEmbedding, Record};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, OutputRecord};

use crate::stack::{
    Up, all_predicted, answer, picture_record, png, predictions, prompt_record, prompts, publish, read,
    read_until, talk, wait_for,
};

fn record<R: Record>(key: Uuid, value: &R) -> OutputRecord {
    let topic = R::TOPIC;
    let value = Codec::single_object().encode(topic.base_name(), value).unwrap();
    OutputRecord { topic, key: Some(key.to_string().into_bytes()), value: Some(value), headers: Vec::new() }
}

fn first<R: Record>(records: &[InputRecord]) -> R {
    Codec::single_object().decode(records[0].value.as_deref().unwrap()).unwrap()
}

/// A picture with a side of millions of pixels, in some kilobytes.
fn thin(width: u32, height: u32) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    GrayImage::new(width, height).write_to(&mut png, ImageFormat::Png).unwrap();
    png.into_inner()
}

fn codes(letters: &[InputRecord]) -> Vec<String> {
    let mut codes: Vec<_> =
        letters.iter().map(|letter| DeadLetter::parse(&letter.headers).unwrap().code).collect();
    codes.sort();
    codes
}

async fn predicted(up: &Up, pictures: Vec<(Vec<u8>, u128)>) {
    let ids: HashSet<Uuid> = pictures.iter().map(|(_, id)| Uuid::from_u128(*id)).collect();
    let records = pictures.into_iter().map(|(bytes, id)| picture_record(bytes, Uuid::from_u128(id)));
    publish(&up.kafka, records.collect()).await;
    read_until(&up.kafka, Topic::Predictions, "its prediction", |records| all_predicted(records, &ids)).await;
}

/// Publishes pictures whose outputs together would exceed the broker's limit on headers if all were
/// copied.
async fn publish_many_headers(up: &Up) {
    let header = |number: usize| (format!("header {number}"), b"x".to_vec());
    let picture = |id: u128| {
        let mut record = picture_record(png(9, 9, id as u8), Uuid::from_u128(id));
        record.headers.extend((0..400).map(header));
        record
    };
    let ids: HashSet<Uuid> = (100..135).map(Uuid::from_u128).collect();
    publish(&up.kafka, (100..135).map(picture).collect()).await;
    let records =
        read_until(&up.kafka, Topic::Predictions, "predictions", |records| all_predicted(records, &ids))
            .await;
    let copied =
        |record: &InputRecord| record.headers.iter().filter(|(name, _)| name.starts_with("header")).count();
    assert_eq!(records.iter().map(copied).max(), Some(100));
}

/// Vectors that are well formed Avro and cannot be used.
async fn publish_bad_vectors(up: &Up) {
    let pictures = read(&up.kafka, Topic::ImageEmbeddings).await;
    let prompts = read(&up.kafka, Topic::PromptEmbeddings).await;
    let (picture, prompt): (ImageEmbedding, PromptEmbedding) = (first(&pictures), first(&prompts));
    let mut records = Vec::new();
    for values in [vec![f32::NAN; picture.vectors[0].values.len()], Vec::new()] {
        let (mut embedding, id) = (picture.clone(), Uuid::new_v4());
        embedding.image_id = id;
        embedding.vectors[0].values = values;
        records.push(record(id, &embedding));
    }
    let (mut embedding, id) = (prompt, Uuid::new_v4());
    embedding.prompt_id = id;
    embedding.clip.values.fill(0.0);
    records.push(record(id, &embedding));
    publish(&up.kafka, records).await;
}

/// Announces heads whose path is an endless device, a FIFO that blocks, or a folder.
async fn announce_bad_heads(up: &Up, data_dir: &Path) {
    let predicted = predictions(&read(&up.kafka, Topic::Predictions).await);
    let encoder = predicted.values().next().unwrap().encoder.clone();
    let minilm = first::<PromptEmbedding>(&read(&up.kafka, Topic::PromptEmbeddings).await).minilm.model;
    let heads = data_dir.join("heads");
    std::fs::create_dir_all(&heads).unwrap();
    let fifo = heads.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [Path::new("/dev/zero"), &fifo, &heads] {
        let head = Head {
            name: "stranger".into(),
            path: path.display().to_string(),
            sha256: "0".repeat(64),
            encoder: encoder.clone(),
            minilm: minilm.clone(),
            blend_weight: 0.5,
            created_at_ms: i64::MAX,
            ..Head::default()
        };
        let key = Some(b"stranger".to_vec());
        publish(&up.kafka, vec![OutputRecord { key, ..record(Uuid::nil(), &head) }]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_stranger_sends_stops_the_services() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    publish(&up.kafka, prompts(5, 50, false).iter().map(prompt_record).collect()).await;
    predicted(&up, vec![(png(200, 40, 30), 1)]).await;

    // Resizing them whole would take gigabytes to terabytes.
    predicted(&up, vec![(thin(1, 1_000_000), 2), (thin(1_000_000, 1), 3), (thin(20_000_000, 1), 4)]).await;

    publish_bad_vectors(&up).await;
    announce_bad_heads(&up, folder.path()).await;
    let greedy =
        Prompt { text: "a red fish ".repeat(5_000), seeds: (0..65_536).collect(), ..Prompt::default() };
    publish(&up.kafka, vec![record(greedy.id(), &greedy)]).await;
    // Its text is indexed, its pictures are not drawn.
    let letters =
        read_until(&up.kafka, Topic::DeadLetters, "four dead letters", |records| records.len() >= 4).await;
    assert_eq!(codes(&letters), ["dimension", "no-direction", "not-finite", "too-many-seeds"]);

    publish_many_headers(&up).await;
    predicted(&up, vec![(png(30, 200, 40), 5)]).await;
    assert!(up.terminate(), "it stops when it is asked to");
    let up = Up::start(folder.path());
    predicted(&up, vec![(png(40, 30, 200), 6)]).await;
    assert_eq!(read(&up.kafka, Topic::DeadLetters).await.len(), 4);
    let none = predictions(&read(&up.kafka, Topic::Predictions).await);
    assert!(none.values().all(|prediction| prediction.head.is_none()), "no announced head was usable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prompts_can_be_neighbours_of_many_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let long = |number: usize| Prompt {
        text: format!("{number} a red fish in a blue sea ").repeat(2_100),
        ..Prompt::default()
    };
    publish(&up.kafka, (0..150).map(|number| prompt_record(&long(number))).collect()).await;
    wait_for("the prompts in the index", || {
        let stats = talk(folder.path(), &["--json", "index", "stats"]);
        let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).ok()?;
        (stats["points"] == 150).then_some(())
    });
    predicted(&up, (0..70).map(|at| (png(at * 3, 255 - at, at), u128::from(at) + 1)).collect()).await;
    let shown = predictions(&read(&up.kafka, Topic::Predictions).await);
    assert!(shown.values().all(|prediction| prediction.neighbours[0].text.len() > 50_000));
}

#[test]
fn stale_endpoints_of_a_killed_process_do_not_lead_to_another_index() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let left = first.path().join("endpoints.json");
    let up = Up::start(first.path());
    up.kill();
    let stale = std::fs::read_to_string(&left).unwrap();
    let up = Up::start(second.path());
    // As if the second had taken the ports of the first.
    let taken = std::fs::read_to_string(second.path().join("endpoints.json")).unwrap();
    std::fs::write(&left, &taken).unwrap();
    assert_ne!(stale, taken);
    let texts = second.path().join("prompts.txt");
    std::fs::write(&texts, "a red fish\na blue star\nan old boat\n").unwrap();
    answer(second.path(), &["prompts", "import", texts.to_str().unwrap()]);
    let points = || {
        let stats = talk(second.path(), &["--json", "index", "stats"]);
        serde_json::from_slice::<serde_json::Value>(&stats.stdout).ok()?["points"].as_u64()
    };
    wait_for("the prompts in the index", || points().filter(|points| *points == 3));
    talk(first.path(), &["index", "drop", "--yes"]);
    assert_eq!(points(), Some(3), "the second one's prompts are still there");
    drop(up);
}
