//! A bad picture becomes a dead letter with a reason, and its neighbours are predicted.

use std::collections::{HashMap, HashSet};

use unprompt_schemas::Uuid;
use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::topics::Topic;

use crate::stack::{
    Up, all_predicted, picture_record, png, prompt_record, prompts, publish, read, read_until,
};

/// A PNG whose header claims 40,000 × 40,000 pixels, with a correct checksum.
fn huge_header() -> Vec<u8> {
    let mut bytes = png(1, 2, 3);
    bytes[16..20].copy_from_slice(&40_000_u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&40_000_u32.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// The smallest animated GIF: two frames of one pixel.
fn animated_gif() -> Vec<u8> {
    let frame = [0x21, 0xF9, 4, 0, 10, 0, 0, 0, 0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0];
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend([1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    bytes.extend(frame);
    bytes.extend(frame);
    bytes.push(0x3B);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_pictures_are_dead_letters_with_a_reason_and_good_ones_are_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    publish(&up.kafka, prompts(5, 200, false).iter().map(prompt_record).collect()).await;

    let mut truncated = png(9, 9, 9);
    truncated.truncate(truncated.len() / 2);
    let bad: HashMap<&str, Vec<u8>> = [
        ("truncated", truncated),
        ("empty", Vec::new()),
        ("text", b"this is a text that somebody called picture.png".to_vec()),
        ("huge", huge_header()),
        ("gif", animated_gif()),
    ]
    .into();
    let mut records = Vec::new();
    let mut good = HashSet::new();
    let mut names = HashMap::new();
    for (at, (name, bytes)) in bad.into_iter().enumerate() {
        let (good_id, bad_id) = (Uuid::from_u128(at as u128 + 1), Uuid::from_u128(at as u128 + 100));
        records.push(picture_record(png(200, at as u8 * 40, 30), good_id));
        records.push(picture_record(bytes, bad_id));
        good.insert(good_id);
        names.insert(bad_id.to_string(), name);
    }
    publish(&up.kafka, records).await;

    read_until(&up.kafka, Topic::Predictions, "a prediction of every good picture", |records| {
        all_predicted(records, &good)
    })
    .await;
    let dead = read_until(&up.kafka, Topic::DeadLetters, "a dead letter of every bad one", |records| {
        records.len() >= names.len()
    })
    .await;
    let mut reasons = HashMap::new();
    for record in &dead {
        let letter = DeadLetter::parse(&record.headers).unwrap();
        let id = record
            .headers
            .iter()
            .find(|(name, _)| name == "ce_id")
            .map(|(_, id)| String::from_utf8_lossy(id).into_owned());
        assert_eq!((letter.topic.as_str(), letter.service.as_str()), ("images.v1", "image-encoder"));
        reasons.insert(names[&id.unwrap()], letter);
    }
    assert_eq!(reasons.len(), 5, "each bad picture once: {reasons:?}");
    let codes: HashSet<&str> = reasons.values().map(|letter| letter.code.as_str()).collect();
    assert_eq!(codes.len(), 5, "each kind of badness has its own code: {codes:?}");
    assert!(reasons["huge"].error.contains("40000"), "{}", reasons["huge"].error);
    assert!(reasons.values().all(|letter| letter.error.len() > 20), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_before_the_first_prompt_waits_for_it_and_is_not_a_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let id = Uuid::from_u128(7);
    publish(&up.kafka, vec![picture_record(png(200, 40, 30), id)]).await;
    read_until(&up.kafka, Topic::ImageEmbeddings, "the picture's embedding", |records| !records.is_empty())
        .await;
    // The predictor has time for several attempts, all of them without a prompt.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(read(&up.kafka, Topic::DeadLetters).await.is_empty(), "an early picture was taken for a bad one");
    assert!(read(&up.kafka, Topic::Predictions).await.is_empty(), "predicted from nothing");
    publish(&up.kafka, prompts(5, 20, false).iter().map(prompt_record).collect()).await;
    let good = HashSet::from([id]);
    read_until(&up.kafka, Topic::Predictions, "its prediction", |records| all_predicted(records, &good))
        .await;
    assert!(read(&up.kafka, Topic::DeadLetters).await.is_empty());
}
