//! Records with the URI of a picture: an allowed one is predicted, others become dead letters, an
//! outage makes the batch wait.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::{ImageEvent, names};
use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::topics::Topic;
use unprompt_stream::OutputRecord;

use crate::stack::{
    Up, all_predicted, answer, picture_record, png, predictions, prompt_record, prompts, publish, read,
    read_until, talk,
};

fn claim_record(uri: &str, id: Uuid) -> OutputRecord {
    let event = ImageEvent {
        id: Some(id.to_string()),
        content_type: Some(names::URI_LIST.into()),
        ..ImageEvent::default()
    };
    let value = Some(format!("# a picture\r\n{uri}\r\n").into_bytes());
    OutputRecord { topic: Topic::Images, key: None, value, headers: event.to_headers() }
}

/// A stack that fetches from the folder `pictures`, with prompts to predict from.
async fn stack(root: &Path) -> Up {
    let allow = format!("[\"file://{}/\"]", root.join("pictures").display());
    let up = Up::start_with(&root.join("data"), &[("UNPROMPT__CLAIM_CHECK__ALLOW", &allow)]);
    publish(&up.kafka, prompts(5, 200, false).iter().map(prompt_record).collect()).await;
    up
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_uri_is_predicted_and_a_refused_one_becomes_a_dead_letter() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("pictures")).unwrap();
    fs::write(root.path().join("pictures/red.png"), png(200, 40, 30)).unwrap();
    fs::write(root.path().join("secret.png"), png(200, 40, 30)).unwrap();
    let up = stack(root.path()).await;
    let uri = |name: &str| format!("file://{}", root.path().join(name).display());
    let [inline, claimed] = [1, 2].map(Uuid::from_u128);
    let refused: HashMap<_, _> = [
        (Uuid::from_u128(3), (uri("secret.png"), "uri-not-allowed")),
        (Uuid::from_u128(4), (uri("pictures/../secret.png"), "uri-not-allowed")),
        (Uuid::from_u128(5), ("http://169.254.169.254/latest/meta-data/".to_owned(), "uri-not-allowed")),
        (Uuid::from_u128(6), (uri("pictures/missing.png"), "picture-not-found")),
        (Uuid::from_u128(7), ("https://me:hunter2@a.example/1.png".to_owned(), "bad-uri")),
    ]
    .into();
    let mut records: Vec<_> = refused.iter().map(|(id, (uri, _))| claim_record(uri, *id)).collect();
    records.push(picture_record(png(200, 40, 30), inline));
    records.push(claim_record(&uri("pictures/red.png"), claimed));
    publish(&up.kafka, records).await;

    let both = HashSet::from([inline, claimed]);
    let records = read_until(&up.kafka, Topic::Predictions, "both predictions", |records| {
        all_predicted(records, &both)
    })
    .await;
    let predictions = predictions(&records);
    let cosine: f32 =
        predictions[&inline].vector.iter().zip(&predictions[&claimed].vector).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.999, "the same picture, predicted differently: {cosine}");
    let dead =
        read_until(&up.kafka, Topic::DeadLetters, "the others", |records| records.len() >= refused.len())
            .await;
    assert_eq!(dead.len(), refused.len());
    for record in dead {
        let id = ImageEvent::parse(&record.headers).unwrap().id.unwrap();
        let letter = DeadLetter::parse(&record.headers).unwrap();
        let (uri, code) = &refused[&id.parse().unwrap()];
        assert_eq!(letter.code, *code, "{uri}: {}", letter.error);
        assert!(!letter.error.contains("hunter2"), "{}", letter.error);
        assert!(
            String::from_utf8_lossy(record.value.as_deref().unwrap()).contains(uri),
            "the record is as it was"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_a_folder_that_is_not_mounted_yet_wait_for_it() {
    let root = tempfile::tempdir().unwrap();
    let up = stack(root.path()).await;
    let (red, inline) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let uri = format!("file://{}", root.path().join("pictures/red.png").display());
    publish(&up.kafka, vec![claim_record(&uri, red)]).await;
    crate::stack::wait_for("a try of the batch", || {
        let metrics = crate::stack::get(up.http, "/metrics")?;
        metrics
            .lines()
            .any(|line| line.starts_with("unprompt_claim_checks_total") && line.contains("outage"))
            .then_some(())
    });
    assert!(read(&up.kafka, Topic::DeadLetters).await.is_empty(), "an outage was taken for a bad picture");
    fs::create_dir(root.path().join("pictures")).unwrap();
    fs::write(root.path().join("pictures/red.png"), png(200, 40, 30)).unwrap();
    publish(&up.kafka, vec![picture_record(png(1, 2, 3), inline)]).await;
    let both = HashSet::from([red, inline]);
    let what = "predictions, once the folder is there";
    read_until(&up.kafka, Topic::Predictions, what, |records| all_predicted(records, &both)).await;
    assert!(read(&up.kafka, Topic::DeadLetters).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_uri_publishes_uris_and_hides_their_secrets() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("pictures")).unwrap();
    fs::write(root.path().join("pictures/red.png"), png(200, 40, 30)).unwrap();
    let up = stack(root.path()).await;
    let data_dir = root.path().join("data");
    let uri = format!("file://{}", root.path().join("pictures/red.png").display());
    let said =
        answer(&data_dir, &["publish", "--wait", "--uri", &uri, "https://a.example/1.png?signature=hunter2"]);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["uri"], uri);
    assert_eq!(lines[1]["uri"], "https://a.example/1.png", "the signature is not printed");
    let records = read(&up.kafka, Topic::Predictions).await;
    let id: Uuid = lines[0]["image_id"].as_str().unwrap().parse().unwrap();
    assert!(all_predicted(&records, &HashSet::from([id])));
    assert_eq!(read(&up.kafka, Topic::DeadLetters).await.len(), 1);

    let refused = talk(&data_dir, &["publish", "--uri", "https://me:hunter2@a.example/1.png"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("password") && !said.contains("hunter2"), "{said}");
    assert!(!talk(&data_dir, &["publish"]).status.success(), "nothing to publish is an error");
}
