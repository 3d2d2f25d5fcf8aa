//! The data directory's lock, the topics, and the errors when the broker is unreachable.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;
use unprompt_schemas::topics::Topic;
use unprompt_stream::data_dir::DataDir;
use unprompt_stream::{KafkaConfig, Publisher, StreamError, ensure_topics, list_topics};

use crate::support::*;

#[test]
fn a_locked_data_directory_error_names_the_process_that_holds_it() {
    let dir = TempDir::new().unwrap();
    let mut held = DataDir::lock(dir.path(), "unprompt up").unwrap();
    held.announce(&[("kafka", "127.0.0.1:9092".into())]).unwrap();
    let error = DataDir::lock(dir.path(), "unprompt demo").unwrap_err().to_string();
    let process = format!("process {}", std::process::id());
    for part in ["unprompt up", "kafka 127.0.0.1:9092", &process, "--data-dir"] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    drop(held);
    DataDir::lock(dir.path(), "unprompt demo").unwrap();
}

#[test]
fn addresses_count_only_while_their_process_holds_the_data() {
    let dir = TempDir::new().unwrap();
    let (data, own) = (dir.path().join("new/data"), std::process::id());
    assert!(!DataDir::is_held_by(&data, own), "there is none");
    let held = DataDir::lock(&data, "unprompt up").unwrap();
    let mode = std::fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "other users cannot read it");
    assert!(DataDir::is_held_by(&data, own));
    assert!(!DataDir::is_held_by(&data, own + 1), "another process has left its addresses");
    drop(held);
    assert!(!DataDir::is_held_by(&data, own), "nobody holds it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_as_in_the_catalogue_and_creating_them_again_changes_nothing() {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    publish(&kafka, 0..10).await;
    ensure_topics(&kafka).await.unwrap();
    let states = list_topics(&kafka).await.unwrap();
    for state in &states {
        assert_eq!(state.partitions, Some(state.topic.spec().partitions as usize), "{}", state.name);
    }
    let images = states.iter().find(|state| state.topic == Topic::Images).unwrap();
    assert_eq!((images.name.as_str(), images.offsets), ("images.v1", 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_is_named_in_the_error() {
    let nobody = KafkaConfig::embedded("127.0.0.1:1");
    let error = within("the answer", list_topics(&nobody)).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_for_its_topic_is_refused_before_it_is_sent() {
    let fixture = Fixture::start().await;
    let record = unprompt_stream::OutputRecord { value: Some(vec![0; 22 << 20]), ..numbered(0) };
    let error = Publisher::new(&fixture.kafka()).unwrap().publish(record).await.unwrap_err();
    assert!(matches!(error, StreamError::TooLarge { .. }), "{error}");
}
