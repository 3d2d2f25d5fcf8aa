//! Brokers go away and come back; the runner waits and continues.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, Profile, RunnerConfig, ensure_topics};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_in_the_middle_costs_nothing_but_time() {
    let dir = tempfile::TempDir::new().unwrap();
    let broker = EmbeddedBroker::start(dir.path(), 0).await.unwrap();
    let port = broker.address().port();
    let kafka = KafkaConfig::embedded(broker.brokers());
    ensure_topics(&kafka).await.unwrap();
    publish(&kafka, 0..1_000).await;
    let config = RunnerConfig { batch_records: 10, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, |batch| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(copies(batch))
    });
    take(&kafka, Topic::ImageEmbeddings, 200).await;
    broker.stop().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let broker = EmbeddedBroker::start(dir.path(), port).await.unwrap();
    publish(&kafka, 1_000..1_200).await;
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..1_200).await;
    assert!(run.health.is_live());
    run.stop().await;
    broker.stop().await.unwrap();
}

/// librdkafka's own mock of a cluster, with the catalogue's topics.
pub fn mock() -> (MockCluster<'static, DefaultProducerContext>, KafkaConfig) {
    let cluster = MockCluster::new(3).unwrap();
    let mut kafka = KafkaConfig::embedded(cluster.bootstrap_servers());
    kafka.profile = Profile::Kafka;
    kafka.properties.insert("reconnect.backoff.max.ms".into(), "200".into());
    for topic in Topic::ALL {
        cluster.create_topic(&kafka.prefix.name(topic), topic.spec().partitions, 3).unwrap();
    }
    (cluster, kafka)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_produce_errors_and_a_broker_outage() {
    let (cluster, kafka) = mock();
    publish(&kafka, 0..200).await;
    let config = RunnerConfig { batch_records: 10, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, |batch| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(copies(batch))
    });
    take(&kafka, Topic::ImageEmbeddings, 50).await;
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        ],
    );
    cluster.broker_down(1).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.broker_up(1).unwrap();
    publish(&kafka, 200..300).await;
    let out = take_until_complete(&kafka, Topic::ImageEmbeddings, 0..300).await;
    assert_eq!(counts(&out).len(), 300);
    run.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_waits_for_a_broker_that_is_not_there_yet() {
    let dir = tempfile::TempDir::new().unwrap();
    let broker = EmbeddedBroker::start(dir.path(), 0).await.unwrap();
    let (port, kafka) = (broker.address().port(), KafkaConfig::embedded(broker.brokers()));
    broker.stop().await.unwrap();
    let run = RunningStage::copying(&kafka);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!run.health.is_ready());
    let broker = EmbeddedBroker::start(dir.path(), port).await.unwrap();
    run.ready().await;
    publish(&kafka, 0..10).await;
    assert_exactly_once(&take(&kafka, Topic::ImageEmbeddings, 10).await, 0..10);
    run.stop().await;
    broker.stop().await.unwrap();
}
