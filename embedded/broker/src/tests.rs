//! Tests of the broker with a Kafka client.

use std::path::Path;
use std::time::{Duration, SystemTime};

use nisshi_storage::Storage;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tempfile::TempDir;

use super::*;

const TOPIC: &str = "orders";
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `work` with a client configuration for a broker on `dir`, then stops the broker.
async fn with_broker<T>(dir: &Path, work: impl AsyncFnOnce(ClientConfig) -> T) -> T {
    let broker = EmbeddedBroker::start(dir, 0).await.unwrap();
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", broker.brokers());
    let done = work(client).await;
    broker.stop().await.unwrap();
    done
}

async fn create_topic(client: &ClientConfig, cleanup_policy: &str) {
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1)).set("cleanup.policy", cleanup_policy);
    let created = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(created.iter().all(Result::is_ok), "{created:?}");
}

/// Writes records; each one also carries its key in a header.
async fn publish(client: &ClientConfig, records: &[(String, String)]) {
    let producer: FutureProducer = client.create().unwrap();
    let send = |(key, value): &(String, String)| {
        let headers = OwnedHeaders::new().insert(Header { key: "key", value: Some(key) });
        producer.send_result(FutureRecord::to(TOPIC).key(key).payload(value).headers(headers)).unwrap()
    };
    for sent in records.iter().map(send).collect::<Vec<_>>() {
        sent.await.unwrap().unwrap();
    }
}

/// Reads every record of the topic, in order.
fn read(client: &ClientConfig) -> Vec<(String, String)> {
    let consumer: BaseConsumer = client.clone().set("group.id", "tests").create().unwrap();
    let (_, end) = consumer.fetch_watermarks(TOPIC, 0, PATIENCE).unwrap();
    let mut partition = TopicPartitionList::new();
    partition.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
    consumer.assign(&partition).unwrap();
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    let mut records = Vec::new();
    loop {
        let record = consumer.poll(PATIENCE).expect("a record within the patience").unwrap();
        let (key, header) = (text(record.key()), record.headers().unwrap().get(0));
        assert_eq!((header.key, header.value), ("key", Some(key.as_bytes())));
        records.push((key, text(record.payload())));
        if record.offset() + 1 >= end {
            return records;
        }
    }
}

fn pairs(records: &[(&str, &str)]) -> Vec<(String, String)> {
    records.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<(String, String)> {
    numbers.map(|number| (number.to_string(), format!("order {number}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_a_restart_and_the_write_ahead_log_is_checkpointed() {
    let dir = TempDir::new().unwrap();
    with_broker(dir.path(), async |client| {
        create_topic(&client, "delete").await;
        publish(&client, &numbered(0..500)).await;
    })
    .await;
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["broker.db"], "a write-ahead log is left behind");

    with_broker(dir.path(), async |client| {
        assert_eq!(read(&client), numbered(0..500));
        publish(&client, &numbered(500..600)).await;
        assert_eq!(read(&client), numbered(0..600));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_too_many_headers_is_refused_and_others_are_accepted() {
    let dir = TempDir::new().unwrap();
    with_broker(dir.path(), async |client| {
        create_topic(&client, "delete").await;
        let producer: FutureProducer = client.create().unwrap();
        let send = |count: usize| {
            let header = || Header { key: "", value: Some("") };
            let headers = (0..count).fold(OwnedHeaders::new(), |headers, _| headers.insert(header()));
            producer.send_result(FutureRecord::<str, str>::to(TOPIC).payload("x").headers(headers)).unwrap()
        };
        assert!(send(1_000).await.unwrap().is_ok());
        let refused = send(1_001).await.unwrap().unwrap_err().0.to_string();
        assert!(refused.contains("InvalidRecord"), "{refused}");
        assert!(send(300_000).await.unwrap().is_err());
        for sent in (0..100).map(|_| send(128)).collect::<Vec<_>>() {
            assert!(sent.await.unwrap().is_ok(), "one batch of many records");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_keeps_the_newest_record_of_each_key_and_reads_skip_the_gaps() {
    let dir = TempDir::new().unwrap();
    let written = pairs(&[("a", "1"), ("b", "1"), ("a", "2"), ("a", "3")]);
    with_broker(dir.path(), async |client| {
        create_topic(&client, "compact").await;
        publish(&client, &written).await;
        assert_eq!(read(&client), written);
    })
    .await;

    let address = "127.0.0.1:1".parse().unwrap();
    let (storage, _alias) = storage::open(dir.path(), address, CancellationToken::new()).await.unwrap();
    storage.maintain(SystemTime::now()).await.unwrap();
    drop(storage);

    let kept = with_broker(dir.path(), async |client| read(&client)).await;
    assert_eq!(kept, pairs(&[("b", "1"), ("a", "3")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let broker = EmbeddedBroker::start(one.path(), 0).await.unwrap();
    let port = broker.address().port();
    let error = EmbeddedBroker::start(two.path(), port).await.unwrap_err();
    assert!(
        matches!(&error, EmbeddedBrokerError::Listen { address, .. } if address.port() == port),
        "{error}"
    );
    assert!(error.to_string().contains("0 for any"), "{error}");
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_may_have_any_name() {
    let dir = TempDir::new().unwrap();
    let odd = dir.path().join("my data? #1 %20 ü");
    with_broker(&odd, async |client| create_topic(&client, "delete").await).await;
    assert!(odd.join("broker.db").is_file());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "data went elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_made_is_named_with_what_to_do() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = EmbeddedBroker::start(&file.join("data"), 0).await.unwrap_err();
    assert!(
        matches!(&error, EmbeddedBrokerError::DataDir { path, .. } if path.starts_with(&file)),
        "{error}"
    );
    assert!(error.to_string().contains("may write to it"), "{error}");
}
