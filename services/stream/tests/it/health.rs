//! /livez, /readyz and /metrics tell the truth.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;
use unprompt_stream::health::{Condition, serve};
use unprompt_stream::{Health, RunnerConfig};

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
async fn metrics_count_what_went_through() {
    let fixture = Fixture::start().await;
    let kafka = fixture.kafka();
    let (health, stop) = (Health::default(), CancellationToken::new());
    let server = serve(([127, 0, 0, 1], 0).into(), health, stop.clone()).await.unwrap();
    publish(&kafka, 0..50).await;
    let run = Run::start(&kafka, RunnerConfig::default(), |batch| Ok(copies(batch)));
    take(&kafka, Topic::ImageEmbeddings, 50).await;
    run.stop().await;
    let (status, body) = get(server.address(), "/metrics").await;
    assert_eq!(status, 200);
    for name in ["unprompt_records_in_total", "unprompt_records_out_total", "unprompt_stage_seconds_bucket"] {
        let line = body.lines().find(|line| line.starts_with(name) && line.contains(NAME));
        assert!(line.is_some(), "{name} is missing from\n{body}");
    }
    stop.cancel();
}
