//! `unprompt status`: its numbers for a running stack, and its report of unavailable parts.

use parking_lot::Mutex;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::Arc;

use pty_process::blocking::Pty;
use serde_json::Value;
use unprompt_schemas::Uuid;
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::{KafkaConfig, Profile};
use unprompt_test_kafka::Kafka;

use crate::stack::{
    Up, picture_record, png, prompt_record, prompts, publish, read_until, talk, unprompt, wait_for,
};

const PICTURES: usize = 12;

fn status(data_dir: &Path) -> Value {
    let output = talk(data_dir, &["--json", "status"]);
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn service<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["services"].as_array().unwrap().iter().find(|service| service["service"] == name).expect("listed")
}

fn offsets(report: &Value, topic: &str) -> Option<i64> {
    report["topics"].as_array().unwrap().iter().find(|entry| entry["topic"] == topic)?["offsets"].as_i64()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_counts_processed_records_and_reports_an_unreachable_broker() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    publish(&up.kafka, prompts(3, 20, false).iter().map(prompt_record).collect()).await;
    let mut pictures: Vec<_> = (0..PICTURES)
        .map(|at| picture_record(png(at as u8 * 20, 10, 10), Uuid::from_u128(at as u128 + 1)))
        .collect();
    pictures.push(picture_record(b"no picture".to_vec(), Uuid::from_u128(1_000)));
    publish(&up.kafka, pictures).await;

    let report = wait_for("all to be done", || {
        let report = status(folder.path());
        let services = report["services"].as_array().unwrap();
        let idle = services.iter().all(|service| service["lag"] == 0);
        (idle && offsets(&report, "predictions.v1") == Some(PICTURES as i64)).then_some(report)
    });
    assert_eq!(report["kafka"]["error"], Value::Null);
    assert_eq!(offsets(&report, "prompts.v1"), Some(20));
    assert_eq!(offsets(&report, "images.v1"), Some(PICTURES as i64 + 1));
    assert_eq!(report["dead_letters"]["offsets"], 1);
    assert_eq!(report["dead_letters"]["by_code"][0]["service"], "image-encoder");
    assert_eq!(report["dead_letters"]["by_code"][0]["count"], 1);
    for name in ["text-encoder", "indexer", "generator", "image-encoder", "predictor"] {
        let service = service(&report, name);
        assert_eq!(service["ready"], true, "{service}");
        assert_eq!(
            (service["members"].as_u64(), service["group_state"].as_str()),
            (Some(1), Some("Stable")),
            "{service}"
        );
        assert_eq!(service["in_per_s"], Value::Null, "one look has no rate");
    }
    let encoder = service(&report, "image-encoder");
    assert_eq!(encoder["records_in"].as_u64(), Some(PICTURES as u64 + 1));
    assert_eq!(encoder["records_out"].as_u64(), Some(PICTURES as u64));
    assert_eq!(encoder["committed"].as_u64(), Some(PICTURES as u64 + 1));
    assert_eq!(encoder["lag_by_topic"]["images.v1"], 0);
    assert_eq!(encoder["dead_letters"], 1);

    let shown = String::from_utf8(talk(folder.path(), &["status"]).stdout).unwrap();
    assert!(shown.contains("image-encoder") && shown.contains("0 in images.v1"), "{shown}");
    assert!(shown.contains("offsets of dead letters: 1"), "{shown}");

    up.kill();
    let away = talk(folder.path(), &["--json", "status"]);
    assert!(!away.status.success(), "an unreachable broker is a failure");
    let report: Value = serde_json::from_slice(&away.stdout).unwrap();
    assert!(report["kafka"]["error"].is_string(), "{report}");
    assert_eq!(report["http"], serde_json::json!([]), "its addresses may be another process's by now");
    assert_eq!(service(&report, "predictor")["lag"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_on_apache_kafka_covers_the_services_under_its_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = KafkaConfig::embedded(Kafka::shared().brokers());
    let prefix = Prefix::new("status.").unwrap();
    let up = Up::start_on(folder.path(), &KafkaConfig { profile: Profile::Kafka, prefix, ..embedded });
    publish(&up.kafka, prompts(4, 5, false).iter().map(prompt_record).collect()).await;
    let report = wait_for("all prompts to be done", || {
        let mut command = unprompt();
        command.arg("--data-dir").arg(folder.path()).args(["--json", "status", "--kafka", &up.kafka.brokers]);
        let output = command.env("UNPROMPT__KAFKA__PREFIX", "status.").output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        // A transaction's marker comes after its records.
        let embedded = offsets(&report, "status.prompt-embeddings.v1")?;
        (embedded > 5 && service(&report, "text-encoder")["lag"] == 0).then_some(report)
    });
    assert_eq!(offsets(&report, "status.prompts.v1"), Some(5), "no markers without transactions");
    let embedded =
        read_until(&up.kafka, Topic::PromptEmbeddings, "five embeddings", |records| records.len() >= 5).await;
    assert_eq!(embedded.len(), 5, "the other offsets are no records");
    let topic = &report["topics"].as_array().unwrap()[0];
    assert!(topic.get("records").is_none() && report["dead_letters"].get("records").is_none(), "{report}");
    let encoder = service(&report, "text-encoder");
    assert_eq!(encoder["group"], "status.unprompt-text-encoder");
    assert_eq!((encoder["members"].as_u64(), encoder["ready"].as_bool()), (Some(1), Some(true)), "{encoder}");
    assert_eq!(encoder["committed"].as_u64(), Some(5));
    assert!(up.terminate());
}

/// A watch on its own terminal, and everything drawn on it.
struct Watch {
    child: Child,
    terminal: Arc<Pty>,
    drawn: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Watch {
    fn start(data_dir: &Path) -> Self {
        let (terminal, inside) = pty_process::blocking::open().unwrap();
        terminal.resize(pty_process::Size::new(60, 200)).unwrap();
        let child = pty_process::blocking::Command::new(unprompt().get_program())
            .arg("--data-dir")
            .arg(data_dir)
            .args(["status", "--watch", "--interval-s", "0.2"])
            .env("TERM", "xterm")
            .spawn(inside)
            .unwrap();
        let watch = Self { child, terminal: Arc::new(terminal), drawn: Arc::default(), seen: 0 };
        let (terminal, drawn) = (watch.terminal.clone(), watch.drawn.clone());
        // The read fails once no process has the terminal open.
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = (&*terminal).read(&mut part) {
                drawn.lock().extend_from_slice(&part[..length]);
            }
        });
        watch
    }

    /// Waits until the words are drawn after the ones seen before.
    fn wait_to_see(&mut self, words: &str) {
        self.seen += wait_for(words, || {
            let drawn = self.drawn.lock();
            String::from_utf8_lossy(&drawn[self.seen..]).find(words)
        });
    }

    /// Sends Ctrl-C; returns the exit status and everything drawn by then.
    fn interrupt(mut self) -> (ExitStatus, String) {
        (&*self.terminal).write_all(b"\x03").unwrap();
        let status = wait_for("the end of the watch", || self.child.try_wait().unwrap());
        (status, String::from_utf8_lossy(&self.drawn.lock()).into_owned())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_continues_while_the_broker_is_unreachable_and_sees_it_return() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let up = Up::start(&data_dir);
    let mut watch = Watch::start(&data_dir);
    watch.wait_to_see("images.v1");
    up.kill();
    watch.wait_to_see("is unreachable");
    let up = Up::start(&data_dir);
    watch.wait_to_see("images.v1");
    let (status, drawn) = watch.interrupt();
    assert!(status.success(), "Ctrl-C is how a watch ends, but it ended with {status}: {drawn:?}");
    assert!(up.terminate());
}

#[test]
fn a_watch_without_a_terminal_prints_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = talk(folder.path(), &["--kafka", "127.0.0.1:1", "status", "--watch"]);
    assert!(!output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown.matches("Kafka: 127.0.0.1:1 is unreachable").count(), 1, "{shown}");
}
