//! A broker of the test's own (embedded or Apache Kafka), stages made of closures, and ways to
//! wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::config::{Log, LogFormat};
use unprompt_stream::{
    BatchError, Health, InputRecord, KafkaConfig, Outcome, OutputRecord, Profile, Publisher, RunSummary,
    RunnerConfig, Service, Signals, Stage, Start, StreamError, Tail, Traces, ensure_topics, read_to_end,
    run_stage, telemetry,
};
use unprompt_test_kafka::Kafka;

pub const PATIENCE: Duration = Duration::from_secs(30);
/// A killed Kafka needs time to come back, and its groups need time to settle.
const PATIENCE_WITH_KAFKA: Duration = Duration::from_secs(120);

fn patience(kafka: &KafkaConfig) -> Duration {
    match kafka.profile {
        Profile::Embedded => PATIENCE,
        Profile::Kafka => PATIENCE_WITH_KAFKA,
    }
}
pub const NAME: &str = "tested";

/// A broker with the catalogue's topics, and the delivery that is promised on it.
pub struct Fixture {
    kafka: KafkaConfig,
    /// Kept alive as long as the fixture.
    _embedded: Option<(EmbeddedBroker, TempDir)>,
}

impl Fixture {
    /// Starts the embedded broker on a fresh directory: at least once.
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let broker = EmbeddedBroker::start(dir.path(), 0).await.unwrap();
        let kafka = KafkaConfig::embedded(broker.brokers());
        ensure_topics(&kafka).await.unwrap();
        Self { kafka, _embedded: Some((broker, dir)) }
    }

    /// Uses the Apache Kafka that the tests share, under a prefix of this test's own: exactly once.
    pub async fn on_apache_kafka() -> Self {
        let brokers = tokio::task::spawn_blocking(|| Kafka::shared().brokers()).await.unwrap();
        let prefix = Prefix::new(&format!("{}.", uuid::Uuid::new_v4().simple())).unwrap();
        let kafka = KafkaConfig { prefix, profile: Profile::Kafka, ..KafkaConfig::embedded(brokers) };
        ensure_topics(&kafka).await.unwrap();
        Self { kafka, _embedded: None }
    }

    pub fn kafka(&self) -> KafkaConfig {
        self.kafka.clone()
    }

    /// Asserts that every number came out: exactly once where that is promised, at
    /// least once elsewhere.
    pub fn assert_promise(&self, records: &[InputRecord], numbers: std::ops::Range<usize>) {
        match self.kafka.profile {
            Profile::Kafka => assert_exactly_once(records, numbers),
            Profile::Embedded => assert_eq!(counts(records).len(), numbers.len()),
        }
    }
}

/// Makes each claim a test on the embedded broker and one on Apache Kafka.
macro_rules! on_both {
    ($($claim:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::$claim(crate::support::Fixture::start().await).await;
            })*
        }

        mod apache_kafka {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::$claim(crate::support::Fixture::on_apache_kafka().await).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// A stage from images.v1 to image-embeddings.v1 made of a closure.
pub struct FnStage<F>(pub F);

impl<F> Stage for FnStage<F>
where
    F: FnMut(&[InputRecord]) -> Result<Vec<Outcome>, BatchError> + Send + 'static,
{
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        (self.0)(batch)
    }
}

/// The service of an [`FnStage`].
pub fn service(name: &'static str) -> Service {
    Service { name, ..unprompt_stream::pass_through::SERVICE }
}

/// Returns the outcomes of a stage that copies its input.
pub fn copies(batch: &[InputRecord]) -> Vec<Outcome> {
    batch.iter().map(|record| Outcome::Outputs(vec![unprompt_stream::pass_through::copy(record)])).collect()
}

/// UNPROMPT_TEST_LOG=debug shows the runner's log.
fn log_if_asked() {
    if let Ok(filter) = std::env::var("UNPROMPT_TEST_LOG") {
        // Another test of this process may have installed it before.
        let _ = telemetry::init(&Log { format: LogFormat::Text, filter });
    }
}

/// A running stage.
pub struct RunningStage {
    pub health: Health,
    shutdown: CancellationToken,
    task: JoinHandle<Result<RunSummary, StreamError>>,
}

impl RunningStage {
    pub fn start<F>(kafka: &KafkaConfig, config: RunnerConfig, process: F) -> Self
    where
        F: FnMut(&[InputRecord]) -> Result<Vec<Outcome>, BatchError> + Send + 'static,
    {
        Self::traced(kafka, config, Traces::default(), process)
    }

    /// Starts a stage under a name of its own, which tells its metrics from those of the other
    /// tests in this process.
    pub fn named<F>(name: &'static str, kafka: &KafkaConfig, config: RunnerConfig, process: F) -> Self
    where
        F: FnMut(&[InputRecord]) -> Result<Vec<Outcome>, BatchError> + Send + 'static,
    {
        Self::staged(kafka, config, Traces::default(), name, FnStage(process))
    }

    pub fn traced<F>(kafka: &KafkaConfig, config: RunnerConfig, traces: Traces, process: F) -> Self
    where
        F: FnMut(&[InputRecord]) -> Result<Vec<Outcome>, BatchError> + Send + 'static,
    {
        Self::staged(kafka, config, traces, NAME, FnStage(process))
    }

    fn staged(
        kafka: &KafkaConfig,
        config: RunnerConfig,
        traces: Traces,
        name: &'static str,
        stage: impl Stage,
    ) -> Self {
        log_if_asked();
        let (shutdown, health, kafka) = (CancellationToken::new(), Health::default(), kafka.clone());
        let (stop, signals) = (shutdown.clone(), Signals { health: health.clone(), traces });
        let load = || Ok::<Box<dyn Stage>, String>(Box::new(stage));
        let task =
            tokio::spawn(async move { run_stage(&kafka, config, service(name), load, stop, signals).await });
        Self { health, shutdown, task }
    }

    pub fn copying(kafka: &KafkaConfig) -> Self {
        Self::start(kafka, RunnerConfig::default(), |batch| Ok(copies(batch)))
    }

    pub async fn ready(&self) {
        eventually("the service is ready", || self.health.is_ready()).await;
    }

    pub async fn stop(self) -> RunSummary {
        self.shutdown.cancel();
        within("a graceful stop", self.task).await.unwrap().unwrap()
    }

    /// Waits until it ends by itself, with an error.
    pub async fn failure(self) -> StreamError {
        within("the run's end", self.ended()).await.unwrap_err()
    }

    /// Waits until it ends by itself, however long it takes.
    pub async fn ended(self) -> Result<RunSummary, StreamError> {
        self.task.await.unwrap()
    }

    /// Ends it without a graceful stop.
    pub fn abort(self) {
        self.task.abort();
    }
}

/// Returns a command that runs this test binary in a process of its own, with only the ignored
/// test of this name.
pub fn this_binary(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Reads what the process prints until a line contains `words`.
pub fn wait_until_it_says(child: &mut Child, words: &str) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(words)), "the process ended by itself");
}

/// Returns a metric of a service in this process, summed over its series with all of `labels`. The
/// first call starts to gather metrics.
pub fn metric(name: &str, service: &str, labels: &[&str]) -> f64 {
    let text = telemetry::metrics().unwrap().render();
    let (head, service) = (format!("{name}{{"), format!("service=\"{service}\""));
    let is_wanted = |line: &&str| {
        line.starts_with(&head) && line.contains(&service) && labels.iter().all(|label| line.contains(label))
    };
    text.lines().filter(is_wanted).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// An image record whose value is its number.
pub fn numbered(number: usize) -> OutputRecord {
    OutputRecord {
        topic: Topic::Images,
        key: Some(format!("key-{}", number % 13).into_bytes()),
        value: Some(number.to_string().into_bytes()),
        headers: vec![("number".into(), number.to_string().into_bytes())],
    }
}

pub fn admin(kafka: &KafkaConfig) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().unwrap()
}

pub async fn delete_topic(kafka: &KafkaConfig, topic: Topic) {
    let name = kafka.prefix.name(topic);
    let deleted = admin(kafka).delete_topics(&[&name], &AdminOptions::new()).await.unwrap();
    assert!(deleted[0].is_ok(), "{deleted:?}");
}

pub async fn publish(kafka: &KafkaConfig, numbers: std::ops::Range<usize>) {
    let count = numbers.len();
    let publisher = Publisher::new(kafka).unwrap();
    let published = within("publishing", publisher.publish_many(numbers.map(numbered))).await.unwrap();
    assert_eq!(published, count);
}

pub fn number(record: &InputRecord) -> usize {
    std::str::from_utf8(record.value.as_deref().unwrap()).unwrap().parse().unwrap()
}

/// Reads a topic from its beginning until each of `numbers` has appeared; returns all records,
/// repetitions included.
pub async fn take_until_complete(
    kafka: &KafkaConfig,
    topic: Topic,
    numbers: std::ops::Range<usize>,
) -> Vec<InputRecord> {
    let mut tail = Tail::new(kafka, &[topic], Start::Beginning).await.unwrap();
    let (mut records, mut missing): (Vec<_>, BTreeSet<usize>) = (Vec::new(), numbers.collect());
    let (started, patience) = (Instant::now(), patience(kafka));
    while !missing.is_empty() {
        let left = patience.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, tail.next()).await {
            Ok(record) => records.push(record.unwrap()),
            Err(_) => panic!("missing after {patience:?}: {missing:?}\n{}", standing(kafka, topic)),
        }
        missing.remove(&number(records.last().unwrap()));
    }
    records
}

/// Describes how Kafka's own tools see the groups, and the open transactions on the topic that a
/// test waits for in vain.
fn standing(kafka: &KafkaConfig, topic: Topic) -> String {
    if kafka.profile == Profile::Embedded {
        return String::new();
    }
    let (to, partitions) = (["--bootstrap-server", kafka.brokers.as_str()], topic.spec().partitions);
    let topic = kafka.prefix.name(topic);
    let mut said = String::new();
    let mut ask = |class: &str, arguments: &[&str]| {
        let answer = Kafka::tool(class, &[&to[..], arguments].concat());
        said += &String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat());
    };
    let groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    ask(groups, &["--describe", "--all-groups"]);
    ask(groups, &["--describe", "--all-groups", "--state"]);
    let producers = "org.apache.kafka.tools.TransactionsCommand";
    for partition in (0..partitions).map(|partition| partition.to_string()) {
        ask(producers, &["describe-producers", "--topic", &topic, "--partition", &partition]);
    }
    said
}

/// Reads the first `count` records of a topic.
pub async fn take(kafka: &KafkaConfig, topic: Topic, count: usize) -> Vec<InputRecord> {
    let mut tail = Tail::new(kafka, &[topic], Start::Beginning).await.unwrap();
    let mut records = Vec::with_capacity(count);
    let started = Instant::now();
    while records.len() < count {
        let left = PATIENCE.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, tail.next()).await {
            Ok(record) => records.push(record.unwrap()),
            Err(_) => panic!("{} of {count} records of {topic} came in {PATIENCE:?}", records.len()),
        }
    }
    records
}

/// Reads all records that a topic holds now.
pub async fn all(kafka: &KafkaConfig, topic: Topic) -> Vec<InputRecord> {
    let mut records = Vec::new();
    within("reading to the end", read_to_end(kafka, &[topic], |record| records.push(record))).await.unwrap();
    records
}

/// Counts how often each number is there.
pub fn counts(records: &[InputRecord]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(number(record)).or_default() += 1;
    }
    counts
}

/// Asserts that each number is there exactly once.
pub fn assert_exactly_once(records: &[InputRecord], numbers: std::ops::Range<usize>) {
    let counts = counts(records);
    let missing: Vec<_> = numbers.clone().filter(|number| !counts.contains_key(number)).collect();
    let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    assert!(repeated.is_empty(), "repeated: {repeated:?}");
    assert_eq!(counts.len(), numbers.len());
}

/// Asserts that the numbers of each key only grow: order is kept, and nothing is repeated.
pub fn assert_ordered_by_key(records: &[InputRecord]) {
    let mut last: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut in_order: Vec<&InputRecord> = records.iter().collect();
    in_order.sort_by_key(|record| (record.partition, record.offset));
    for record in in_order {
        let key = record.key.clone().unwrap();
        if let Some(before) = last.insert(key, number(record)) {
            assert!(before < number(record), "{} came after {before}", number(record));
        }
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {PATIENCE:?}"),
    }
}

pub async fn eventually(what: impl Display, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
