//! A running `unprompt up` on a data directory of the test.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{Prediction, Prompt};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, KafkaConfig, OutputRecord, Publisher, read_to_end};
use unprompt_tiny_world::{Grammar, Split};

/// The timeout of every wait in a test.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The binary under test.
pub fn unprompt() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unprompt"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

/// A process that is killed when the test ends.
#[derive(Debug)]
pub struct Up {
    child: Child,
    pub kafka: KafkaConfig,
    pub qdrant: SocketAddr,
    pub http: SocketAddr,
}

impl Up {
    /// Starts on `data_dir` and waits until every service is ready.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// Like [`Self::start`], on another Kafka, under a prefix.
    pub fn start_on(data_dir: &Path, kafka: &KafkaConfig) -> Self {
        let prefix = ("UNPROMPT__KAFKA__PREFIX", kafka.prefix.as_str());
        let mut up = Self::start_with(
            data_dir,
            &[("UNPROMPT__KAFKA__PROFILE", "kafka"), ("UNPROMPT__KAFKA__BROKERS", &kafka.brokers), prefix],
        );
        up.kafka = kafka.clone();
        up
    }

    /// Like [`Self::start`], with environment variables.
    pub fn start_with(data_dir: &Path, environment: &[(&str, &str)]) -> Self {
        let mut up = Self::start_unready(data_dir, environment);
        up.wait_ready();
        up
    }

    /// Like [`Self::start_with`], without waiting until the services are ready.
    pub fn start_unready(data_dir: &Path, environment: &[(&str, &str)]) -> Self {
        Self::spawn(unprompt().envs(environment.iter().copied()), data_dir)
    }

    /// Like [`Self::start_with`], with `folder` as the working folder of the process.
    pub fn start_in(folder: &Path, data_dir: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = unprompt();
        let mut up = Self::spawn(command.current_dir(folder).envs(environment.iter().copied()), data_dir);
        up.wait_ready();
        up
    }

    fn spawn(command: &mut Command, data_dir: &Path) -> Self {
        // A killed process's file would be mistaken for the new one's.
        let _ = std::fs::remove_file(data_dir.join("endpoints.json"));
        let child = command
            .args(["up", "--broker-port", "0", "--index-port", "0", "--http-port", "0"])
            .args(["--log", "warn", "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        Self::on(child, data_dir)
    }

    fn on(mut child: Child, data_dir: &Path) -> Self {
        let endpoints = wait_for("endpoints.json", || {
            assert!(
                child.try_wait().expect("its state can be asked").is_none(),
                "unprompt up ended while starting"
            );
            let text = std::fs::read_to_string(data_dir.join("endpoints.json")).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        });
        let address = |name: &str| {
            endpoints[name].as_str().expect("an address").parse::<SocketAddr>().expect("an address")
        };
        // Null if the broker is not embedded.
        let kafka = KafkaConfig::embedded(endpoints["kafka"].as_str().unwrap_or_default());
        Self { child, kafka, qdrant: address("qdrant"), http: address("http") }
    }

    pub fn wait_ready(&mut self) {
        wait_for("readiness", || {
            assert!(
                self.child.try_wait().expect("its state can be asked").is_none(),
                "unprompt up ended while starting"
            );
            get(self.http, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")).then_some(())
        });
    }

    /// Kills the process with SIGKILL: nothing is flushed, nothing committed.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Sends SIGTERM; returns whether the process ended with success.
    pub fn terminate(mut self) -> bool {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        self.child.wait().expect("it ends").success()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A plain HTTP GET; `None` while nothing listens.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Polls until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a command of the binary against the stack on `data_dir`.
pub fn talk(data_dir: &Path, args: &[&str]) -> Output {
    unprompt().arg("--data-dir").arg(data_dir).args(args).output().expect("the binary runs")
}

/// The command's stdout; the command must succeed.
pub fn answer(data_dir: &Path, args: &[&str]) -> String {
    let output = talk(data_dir, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} failed: {stderr}");
    String::from_utf8(output.stdout).expect("stdout is text")
}

/// Prompts from the grammar as records, each with a seed if `draw` is set.
pub fn prompts(seed: u64, count: usize, draw: bool) -> Vec<Prompt> {
    let scenes = Grammar::new(seed).scenes(Split::Train).take(count).enumerate();
    scenes
        .map(|(at, scene)| Prompt {
            text: scene.prompt(),
            source: format!("test-{seed}"),
            seeds: if draw { vec![at as i64] } else { Vec::new() },
            attributes: Default::default(),
        })
        .collect()
}

/// The record that publishes a prompt.
pub fn prompt_record(prompt: &Prompt) -> OutputRecord {
    let value = Codec::single_object().encode("prompts.v1", prompt).expect("a prompt encodes");
    OutputRecord {
        topic: Topic::Prompts,
        key: Some(prompt.id().to_string().into_bytes()),
        value: Some(value),
        headers: Vec::new(),
    }
}

/// The record that publishes a picture under an id.
pub fn picture_record(bytes: Vec<u8>, id: Uuid) -> OutputRecord {
    let event = ImageEvent {
        id: Some(id.to_string()),
        source: Some("test".into()),
        event_type: Some("test".into()),
        ..Default::default()
    };
    OutputRecord { topic: Topic::Images, key: None, value: Some(bytes), headers: event.to_headers() }
}

pub async fn publish(kafka: &KafkaConfig, records: Vec<OutputRecord>) {
    Publisher::new(kafka)
        .expect("a producer")
        .publish_many(records)
        .await
        .expect("all records are acknowledged");
}

/// All records of a topic so far.
pub async fn read(kafka: &KafkaConfig, topic: Topic) -> Vec<InputRecord> {
    let mut records = Vec::new();
    read_to_end(kafka, &[topic], |record| records.push(record)).await.expect("the topic can be read");
    records
}

/// Waits until `done` holds for the records of the topic.
pub async fn read_until(
    kafka: &KafkaConfig,
    topic: Topic,
    what: &str,
    done: impl Fn(&[InputRecord]) -> bool,
) -> Vec<InputRecord> {
    let started = Instant::now();
    loop {
        let records = read(kafka, topic).await;
        if done(&records) {
            return records;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{what} not within {PATIENCE:?}: {} records on {topic:?}",
            records.len()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The predictions among records, by picture.
pub fn predictions(records: &[InputRecord]) -> HashMap<Uuid, Prediction> {
    let codec = Codec::single_object();
    let decoded = records.iter().filter_map(|record| record.value.as_deref());
    decoded
        .map(|value| codec.decode::<Prediction>(value).expect("a prediction decodes"))
        .map(|prediction| (prediction.image_id, prediction))
        .collect()
}

/// Returns whether every picture has a prediction.
pub fn all_predicted(records: &[InputRecord], wanted: &HashSet<Uuid>) -> bool {
    let predictions = predictions(records);
    wanted.iter().all(|id| predictions.contains_key(id))
}

/// A PNG of one colour with a darker square, so that pictures differ.
pub fn png(red: u8, green: u8, blue: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| {
        let inside = (16..48).contains(&x) && (16..48).contains(&y);
        if inside { image::Rgb([red / 2, green / 2, blue / 2]) } else { image::Rgb([red, green, blue]) }
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).expect("a PNG encodes");
    bytes.into_inner()
}
