//! A service whose Kafka or index is unavailable at the start waits for it, and reports that it is
//! not ready.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_stream::{KafkaConfig, list_topics};

use crate::stack::{get, unprompt, wait_for};

/// A process that is killed when the test ends.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Serving {
    /// Starts `command` on the embedded broker of another process, at `kafka_port`, and returns
    /// once it reports that it waits for that broker.
    fn without_kafka(command: &[&str], data_dir: &Path, kafka_port: u16, http_port: u16) -> Self {
        let child = unprompt()
            .args(command)
            .args(["--log", "warn", "--http-port", &http_port.to_string(), "--data-dir"])
            .arg(data_dir)
            .env("UNPROMPT__KAFKA__BROKERS", format!("127.0.0.1:{kafka_port}"))
            .env("UNPROMPT__KAFKA__PROFILE", "embedded")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut serving = Self(child);
        let mut lines = BufReader::new(serving.0.stderr.take().unwrap()).lines();
        let waits = lines.any(|line| line.is_ok_and(|line| line.contains("waiting for Kafka")));
        assert!(waits, "{command:?} ended instead of waiting");
        std::thread::spawn(move || lines.for_each(drop));
        serving
    }

    /// Sends SIGTERM; returns whether the stop was graceful.
    fn terminate(mut self) -> bool {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.0.wait().unwrap().success()
    }
}

fn free_port() -> u16 {
    unprompt_test_guarded::free_address().port()
}

fn status(address: SocketAddr) -> Option<String> {
    Some(get(address, "/readyz")?.lines().next()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predictor_waits_for_an_unavailable_index_at_startup() {
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start(&folder.path().join("broker"), 0).await.unwrap();
    let (index_port, http) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let child = unprompt()
        .args(["serve", "predictor", "--log", "warn", "--http-port", &http.port().to_string()])
        .args(["--qdrant", &format!("http://127.0.0.1:{index_port}"), "--data-dir"])
        .arg(folder.path().join("data"))
        .env("UNPROMPT__KAFKA__BROKERS", broker.brokers())
        .env("UNPROMPT__KAFKA__PROFILE", "embedded")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut serving = Serving(child);
    let stderr = std::io::BufReader::new(serving.0.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(stderr);
    let waiting = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("waiting for the index")));
    assert!(waiting.is_some(), "it ended instead of waiting");
    std::thread::spawn(move || lines.for_each(drop));
    let said = wait_for("an answer", || status(http));
    assert!(said.contains("503"), "{said}");

    let index = EmbeddedIndex::start(&folder.path().join("index"), index_port).await.unwrap();
    wait_for("readiness", || status(http).filter(|said| said.contains("200")));
    assert!(serving.0.try_wait().unwrap().is_none());
    drop(serving);
    index.stop().await.unwrap();
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_an_unavailable_kafka_at_startup() {
    let folder = tempfile::tempdir().unwrap();
    let (kafka_port, http) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let data_dir = folder.path().join("data");
    let mut serving = Serving::without_kafka(&["serve", "image-encoder"], &data_dir, kafka_port, http.port());
    let said = wait_for("an answer", || status(http));
    assert!(said.contains("503"), "{said}");
    assert!(get(http, "/livez").unwrap().starts_with("HTTP/1.1 200"), "waiting is no failure");

    let broker = EmbeddedBroker::start(&folder.path().join("broker"), kafka_port).await.unwrap();
    wait_for("readiness", || status(http).filter(|said| said.contains("200")));
    assert!(serving.0.try_wait().unwrap().is_none());
    assert!(serving.terminate());
    broker.stop().await.unwrap();
}

#[test]
fn a_service_that_waits_for_kafka_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::without_kafka(&["serve", "predictor"], folder.path(), free_port(), 0);
    assert!(serving.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn up_waits_for_brokers_from_the_environment_and_hosts_no_broker() {
    let folder = tempfile::tempdir().unwrap();
    let (kafka_port, data_dir) = (free_port(), folder.path().join("data"));
    let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let up = ["up", "--broker-port", "0", "--index-port", "0"];
    let serving = Serving::without_kafka(&up, &data_dir, kafka_port, http.port());
    let endpoints = std::fs::read_to_string(data_dir.join("endpoints.json")).unwrap();
    let endpoints: serde_json::Value = serde_json::from_str(&endpoints).unwrap();
    assert!(endpoints["kafka"].is_null(), "it hosts a broker of its own: {endpoints}");
    assert!(wait_for("an answer", || status(http)).contains("503"));

    let broker = EmbeddedBroker::start(&folder.path().join("broker"), kafka_port).await.unwrap();
    wait_for("readiness", || status(http).filter(|said| said.contains("200")));
    let topics = list_topics(&KafkaConfig::embedded(broker.brokers())).await.unwrap();
    assert!(topics.iter().all(|topic| topic.partitions.is_some()), "its topics are there: {topics:?}");
    assert!(serving.terminate());
    assert!(!data_dir.join("endpoints.json").exists());
    broker.stop().await.unwrap();
}

#[test]
fn an_up_that_waits_for_kafka_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let up = ["up", "--index-port", "0"];
    let serving = Serving::without_kafka(&up, folder.path(), free_port(), 0);
    assert!(serving.terminate());
}
