//! The processes of a run: `unprompt up`, or one process for each service on Apache Kafka.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tempfile::TempDir;
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::{KafkaConfig, Profile};
use unprompt_test_guarded::free_address;
use unprompt_test_kafka::Kafka;

use super::usage::{Source, Usage};
use crate::Broker;
use crate::fleet::{Instance, Recipe};

/// The time for which records are kept, so that the bytes on disk reach their bound within the run.
const RETENTION: Duration = Duration::from_secs(300);
/// Kafka deletes whole segments only.
const SEGMENT: Duration = Duration::from_secs(60);
/// Kafka looks for old segments at this interval, ours every five minutes. It compacts only full
/// segments of its own topics, and larger ones would not be full in an hour.
const KAFKA_PROPERTIES: &str = "log.retention.check.interval.ms=20000\n\
                                offsets.topic.segment.bytes=1048576\n\
                                transaction.state.log.segment.bytes=1048576\n";
const SERVICES: [&str; 5] = ["generator", "text-encoder", "image-encoder", "indexer", "predictor"];

/// Running services with their broker and index.
pub struct Stack {
    pub kafka: KafkaConfig,
    pub instances: Vec<Instance>,
    /// The folder of the broker's or of all data.
    data: PathBuf,
    index: Option<EmbeddedIndex>,
    server: Option<Kafka>,
    folder: TempDir,
}

impl Stack {
    pub async fn start(binary: &Path, broker: Broker, logs: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(logs)?;
        let mut stack = match broker {
            Broker::Embedded => Self::embedded(binary, logs).await?,
            Broker::Apache => Self::apache(binary, logs).await?,
        };
        for instance in &mut stack.instances {
            instance.ready().await?;
        }
        Ok(stack)
    }

    /// `unprompt up`, on topics that were created before with a short retention.
    async fn embedded(binary: &Path, logs: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let data = folder.path().join("data");
        let port = free_address().port();
        let broker = EmbeddedBroker::start(&data.join("broker"), port).await?;
        let kafka = KafkaConfig::embedded(broker.brokers());
        create_topics(&kafka).await?;
        broker.stop().await?;
        let mut command = std::process::Command::new(binary);
        command.args(["up", "--broker-port", &port.to_string(), "--index-port", "0"]);
        command.arg("--data-dir").arg(&data).stdin(std::process::Stdio::null());
        let up = Instance::start_command(command, "up", logs)?;
        let instances = vec![up];
        Ok(Self { kafka, instances, data, index: None, server: None, folder })
    }

    /// A process for each service; the index is in this process.
    async fn apache(binary: &Path, logs: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let server = tokio::task::spawn_blocking(|| Kafka::start_with(KAFKA_PROPERTIES)).await?;
        let mut kafka = KafkaConfig { profile: Profile::Kafka, ..KafkaConfig::embedded(server.brokers()) };
        kafka.prefix = Prefix::new("soak.")?;
        create_topics(&kafka).await?;
        let index = EmbeddedIndex::start(&folder.path().join("index"), 0).await?;
        let recipe = Recipe {
            binary: binary.to_owned(),
            brokers: kafka.brokers.clone(),
            prefix: kafka.prefix.as_str().to_owned(),
            profile: "kafka",
            qdrant_url: index.url(),
            folder: logs.to_owned(),
        };
        let start = |service| Instance::start(&recipe, service, service, None);
        let instances = SERVICES.into_iter().map(start).collect::<anyhow::Result<_>>()?;
        let data = server.data().to_owned();
        Ok(Self { kafka, instances, data, index: Some(index), server: Some(server), folder })
    }

    /// The memory of every process, and the disk.
    pub fn usages(&self) -> (Vec<Usage>, Vec<Usage>) {
        let process = |instance: &Instance| Usage::new(&instance.name, Source::Process(instance.pid()));
        let mut memory: Vec<Usage> = self.instances.iter().map(process).collect();
        if self.index.is_some() {
            memory.push(Usage::new("index (with the harness)", Source::Process(std::process::id())));
        }
        let folder = |name, path: PathBuf| Usage::new(name, Source::Folder(path));
        let disk = match self.server {
            Some(_) => {
                vec![folder("broker", self.data.clone()), folder("index", self.folder.path().join("index"))]
            }
            None => {
                vec![folder("broker", self.data.join("broker")), folder("index", self.data.join("index"))]
            }
        };
        (memory, disk)
    }

    /// Stops every process; each must end with success.
    pub async fn stop(self) -> anyhow::Result<()> {
        for instance in self.instances {
            let name = instance.name.clone();
            instance.signal("TERM")?;
            let status = instance.end().await?;
            ensure!(status.success(), "{name} was told to stop and ended with {status}");
        }
        Ok(())
    }
}

/// Creates the topics of the catalogue, with a short retention where they have any.
async fn create_topics(kafka: &KafkaConfig) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create()?;
    let [retention, segment] = [RETENTION, SEGMENT].map(|time| time.as_millis().to_string());
    for topic in Topic::ALL {
        let (spec, name) = (topic.spec(), kafka.prefix.name(topic));
        let bytes = spec.max_message_bytes.to_string();
        let new = NewTopic::new(&name, spec.partitions, TopicReplication::Fixed(1))
            .set("max.message.bytes", &bytes)
            .set("compression.type", "uncompressed");
        let new = match spec.compacted {
            true => new.set("cleanup.policy", "compact"),
            false => new
                .set("cleanup.policy", "delete")
                .set("retention.ms", &retention)
                .set("segment.ms", &segment),
        };
        let created = admin.create_topics([&new], &AdminOptions::new()).await?;
        let created = created.into_iter().next().context("an answer for the topic")?;
        created.map_err(|(topic, code)| anyhow::anyhow!("{topic} cannot be created: {code}"))?;
    }
    Ok(())
}
