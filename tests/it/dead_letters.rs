//! Dead letters, as an operator handles them: listed, shown, published again once the cause is mended, purged.

use serde_json::Value;

use unprompt_schemas::Uuid;
use unprompt_schemas::topics::Topic;

use crate::stack::{Up, answer, picture_record, publish, read_until, talk};

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_published_again_and_purged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data);
    let first = b"this is no picture".to_vec();
    publish(&up.kafka, vec![picture_record(first.clone(), Uuid::from_u128(1))]).await;
    publish(&up.kafka, vec![picture_record(Vec::new(), Uuid::from_u128(2))]).await;
    read_until(&up.kafka, Topic::DeadLetters, "two dead letters", |records| records.len() == 2).await;

    let listed = |arguments: &[&str]| -> Vec<Value> {
        let said = answer(&data, &[&["--json", "dead-letters", "list"], arguments].concat());
        serde_json::from_str(&said).unwrap()
    };
    assert_eq!(listed(&[]).len(), 2);
    assert_eq!(listed(&["--service", "predictor"]).len(), 0);
    let one = listed(&["--code", "not-an-image"]).pop().unwrap();
    assert_eq!((one["service"].as_str(), one["topic"].as_str()), (Some("image-encoder"), Some("images.v1")));
    assert!(answer(&data, &["dead-letters", "list"]).contains("not-an-image"));

    let (position, file) = (one["position"].as_str().unwrap(), folder.path().join("value"));
    let shown = answer(&data, &["dead-letters", "show", position, "--out", file.to_str().unwrap()]);
    assert!(shown.contains("PNG"), "the whole reason is shown: {shown}");
    assert_eq!(std::fs::read(&file).unwrap(), first);
    assert!(!talk(&data, &["dead-letters", "show", "0:99999"]).status.success());

    let refused = talk(&data, &["dead-letters", "replay"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--all"));
    let replayed: Value =
        serde_json::from_str(&answer(&data, &["--json", "dead-letters", "replay", position])).unwrap();
    assert_eq!(replayed["published"], 1);
    let again =
        read_until(&up.kafka, Topic::DeadLetters, "the same once more", |records| records.len() == 3).await;
    assert_eq!(again.iter().filter(|record| record.value.as_deref() == Some(&first)).count(), 2);

    assert!(!talk(&data, &["dead-letters", "purge"]).status.success(), "not without --yes");
    answer(&data, &["dead-letters", "purge", "--yes"]);
    assert_eq!(listed(&[]).len(), 0);
}
