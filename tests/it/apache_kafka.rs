//! The same services on an Apache Kafka: nothing changes but `--kafka`.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use unprompt_schemas::Uuid;
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::config::Profile;
use unprompt_stream::{KafkaConfig, committed_offsets};
use unprompt_test_kafka::Kafka;

use crate::stack::{
    Up, all_predicted, picture_record, png, predictions, prompt_record, prompts, publish, read, read_until,
};

fn under(prefix: &str) -> KafkaConfig {
    let embedded = KafkaConfig::embedded(Kafka::shared().brokers());
    KafkaConfig { profile: Profile::Kafka, prefix: Prefix::new(prefix).unwrap(), ..embedded }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_indexed_drawn_and_pictures_predicted_on_apache_kafka() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start_on(folder.path(), &under("whole."));
    assert!(!folder.path().join("broker").exists(), "an embedded broker was started all the same");

    publish(&up.kafka, prompts(5, 100, false).iter().map(prompt_record).collect()).await;
    publish(&up.kafka, prompts(6, 4, true).iter().map(prompt_record).collect()).await;
    let (good, bad) = (Uuid::from_u128(1), Uuid::from_u128(2));
    publish(&up.kafka, vec![picture_record(png(200, 40, 30), good), picture_record(b"none".to_vec(), bad)])
        .await;

    let records = read_until(&up.kafka, Topic::Predictions, "five predictions", |records| {
        predictions(records).len() == 5 && all_predicted(records, &HashSet::from([good]))
    })
    .await;
    assert_eq!(predictions(&records)[&good].vector.len(), 384);
    assert_eq!(read(&up.kafka, Topic::Images).await.len(), 6);
    let dead = read_until(&up.kafka, Topic::DeadLetters, "the bad one", |records| !records.is_empty()).await;
    assert_eq!(dead.len(), 1);

    let up_kafka = up.kafka.clone();
    assert!(up.terminate(), "a graceful stop ends with success");
    let committed = committed_offsets(&up_kafka, "predictor", Topic::ImageEmbeddings).await.unwrap();
    let mut after = BTreeMap::new();
    for record in read(&up_kafka, Topic::ImageEmbeddings).await {
        let next = after.entry(record.partition).or_insert(0);
        *next = record.offset.max(*next - 1) + 1;
    }
    assert_eq!(committed, after, "the group committed up to the last record of every partition");
    let groups = Kafka::tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        &["--bootstrap-server", &up_kafka.brokers, "--describe", "--group", "whole.unprompt-predictor"],
    );
    let said = String::from_utf8_lossy(&groups.stdout);
    assert!(said.contains("whole.image-embeddings.v1"), "Kafka's own tool knows the group: {said}");
}

#[test]
fn an_unreachable_kafka_is_an_error_that_names_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let output = crate::stack::talk(folder.path(), &["--kafka", "127.0.0.1:1", "topics", "list"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("127.0.0.1:1"), "{said}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "an embedded broker was started");
}
