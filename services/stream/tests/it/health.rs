//! /livez, /readyz and /metrics tell the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::health::{Condition, serve};
use unprompt_stream::{Health, KafkaConfig, Profile, RunnerConfig, ensure_topics};

use crate::support::*;

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[tokio::test]
async fn readiness_waits_for_every_condition_of_every_service() {
    let (health, stop) = (Health::default(), CancellationToken::new());
    let server = serve(([127, 0, 0, 1], 0).into(), health.clone(), stop.clone()).await.unwrap();
    let (status, _) = get(server.address(), "/readyz").await;
    assert_eq!(status, 503, "a process without services is not ready");
    let (one, two) = (health.service("one"), health.service("two"));
    for service in [&one, &two] {
        for condition in [Condition::Topics, Condition::Stage, Condition::Partitions] {
            assert_eq!(get(server.address(), "/readyz").await.0, 503);
            service.set(condition, true);
        }
    }
    assert_eq!(get(server.address(), "/readyz").await.0, 200);
    assert_eq!(get(server.address(), "/livez").await.0, 200);
    two.fail(&"the model is gone");
    let (status, body) = get(server.address(), "/livez").await;
    assert_eq!(status, 503);
    assert!(body.contains("the model is gone"), "{body}");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_a_run_are_exposed() {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    let (health, stop) = (Health::default(), CancellationToken::new());
    let server = serve(([127, 0, 0, 1], 0).into(), health, stop.clone()).await.unwrap();
    publish(&kafka, 0..50).await;
    let run = RunningStage::start(&kafka, RunnerConfig::default(), |batch| Ok(copies(batch)));
    take(&kafka, Topic::ImageEmbeddings, 50).await;
    run.stop().await;
    let (status, body) = get(server.address(), "/metrics").await;
    assert_eq!(status, 200);
    for name in [
        "unprompt_records_in_total",
        "unprompt_bytes_in_total",
        "unprompt_records_out_total",
        "unprompt_bytes_out_total",
        "unprompt_batch_records_bucket",
        "unprompt_stage_seconds_bucket",
        "unprompt_latency_seconds_bucket",
        "unprompt_rebalances_total",
        "unprompt_bytes_in_flight",
        "unprompt_stage_loaded",
    ] {
        let line = body.lines().find(|line| line.starts_with(name) && line.contains(NAME));
        assert!(line.is_some(), "{name} is missing from\n{body}");
    }
    stop.cancel();
}

/// Returns a gauge of the tested service, summed over its other labels.
async fn gauge(address: std::net::SocketAddr, name: &str) -> Option<f64> {
    let (_, body) = get(address, "/metrics").await;
    let mine = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(&format!("\"{NAME}\""));
    let values: Vec<f64> =
        body.lines().filter(mine).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

async fn eventually_gauge(address: std::net::SocketAddr, name: &str, wanted: impl Fn(f64) -> bool) {
    let started = std::time::Instant::now();
    loop {
        let is = gauge(address, name).await;
        if is.is_some_and(&wanted) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{name} is {is:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the tests below run it in a separate process: metrics are the process's"]
async fn the_process_whose_metrics_are_read() {
    let prefix = Prefix::new(&std::env::var("UNPROMPT_TEST_PREFIX").unwrap()).unwrap();
    let profile = if std::env::var("UNPROMPT_TEST_PROFILE").unwrap() == "Kafka" {
        Profile::Kafka
    } else {
        Profile::Embedded
    };
    let brokers = std::env::var("UNPROMPT_TEST_BROKERS").unwrap();
    let kafka = KafkaConfig { prefix, profile, ..KafkaConfig::embedded(brokers) };
    let (health, stop) = (Health::default(), CancellationToken::new());
    let server = serve(([127, 0, 0, 1], 0).into(), health, stop.clone()).await.unwrap();
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let config = RunnerConfig { batch_records: 100, ..RunnerConfig::default() };
    let run = RunningStage::start(&kafka, config, move |batch| {
        while !gate.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(copies(batch))
    });
    // While the gate is shut, the service lags by all records and holds some.
    eventually_gauge(server.address(), "unprompt_consumer_lag_records", |lag| lag == 300.0).await;
    eventually_gauge(server.address(), "unprompt_batches_in_flight", |batches| batches >= 1.0).await;
    eventually_gauge(server.address(), "unprompt_bytes_in_flight", |bytes| bytes >= 300.0).await;
    assert_eq!(gauge(server.address(), "unprompt_stage_loaded").await, Some(1.0));
    open.store(true, Ordering::Relaxed);
    eventually_gauge(server.address(), "unprompt_consumer_lag_records", |lag| lag == 0.0).await;
    eventually_gauge(server.address(), "unprompt_batches_in_flight", |batches| batches == 0.0).await;
    eventually_gauge(server.address(), "unprompt_bytes_in_flight", |bytes| bytes == 0.0).await;
    let committed = match kafka.profile {
        Profile::Kafka => "unprompt_transactions_total",
        Profile::Embedded => "unprompt_commits_total",
    };
    eventually_gauge(server.address(), committed, |count| count >= 1.0).await;
    run.stop().await;
    assert_eq!(gauge(server.address(), "unprompt_stage_loaded").await, Some(0.0));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_dropped_from_its_group_is_not_ready_until_it_rejoins() {
    let dir = tempfile::TempDir::new().unwrap();
    let broker = EmbeddedBroker::start(dir.path(), 0).await.unwrap();
    let (port, mut kafka) = (broker.address().port(), KafkaConfig::embedded(broker.brokers()));
    kafka.properties.insert("session.timeout.ms".into(), "2000".into());
    kafka.properties.insert("heartbeat.interval.ms".into(), "500".into());
    ensure_topics(&kafka).await.unwrap();
    let run = RunningStage::copying(&kafka);
    run.ready().await;
    broker.stop().await.unwrap();
    eventually("it is not ready any more", || !run.health.is_ready()).await;
    assert!(run.health.is_live(), "it waits for the broker");
    let broker = EmbeddedBroker::start(dir.path(), port).await.unwrap();
    run.ready().await;
    publish(&kafka, 0..10).await;
    take_until_complete(&kafka, Topic::ImageEmbeddings, 0..10).await;
    run.stop().await;
    broker.stop().await.unwrap();
}

async fn lag_and_in_flight_metrics_match_the_actual_state(fixture: Fixture) {
    let kafka = fixture.kafka();
    publish(&kafka, 0..300).await;
    let asked = this_binary("health::the_process_whose_metrics_are_read")
        .env("UNPROMPT_TEST_BROKERS", &kafka.brokers)
        .env("UNPROMPT_TEST_PREFIX", kafka.prefix.as_str())
        .env("UNPROMPT_TEST_PROFILE", format!("{:?}", kafka.profile))
        .output();
    let asked = asked.unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stdout));
}

on_both! {
    lag_and_in_flight_metrics_match_the_actual_state,
}
