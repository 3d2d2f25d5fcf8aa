//! The broker and the index of this run, which can be stopped and started again.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::sync::Mutex;
use unprompt_embedded_broker::EmbeddedBroker;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_schemas::topics::Prefix;
use unprompt_stream::{KafkaConfig, Profile, ensure_topics};
use unprompt_test_kafka::Kafka;

use crate::Broker;
use crate::small_disk::SmallDisk;

/// Bytes a second that a limited broker takes from all services together, and gives them.
const QUOTA: u32 = 500_000;
/// The client id of the services.
const CLIENT_ID: &str = "unprompt";

/// The broker, of either kind.
enum Running {
    Apache(Kafka),
    /// `None` while it is unavailable.
    Embedded(Option<EmbeddedBroker>),
}

/// Broker and index.
pub struct World {
    pub kafka: KafkaConfig,
    pub qdrant_url: String,
    broker: Mutex<Running>,
    index: Mutex<Option<EmbeddedIndex>>,
    broker_data: PathBuf,
    index_data: PathBuf,
    data: Data,
}

/// Where broker and index keep their data.
enum Data {
    Folder(TempDir),
    /// A disk that can be full.
    Disk(SmallDisk),
}

impl Data {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.path(),
            Self::Disk(disk) => disk.path(),
        }
    }

    fn disk(&self) -> anyhow::Result<&SmallDisk> {
        match self {
            Self::Disk(disk) => Ok(disk),
            Self::Folder(_) => bail!("the world was started on a disk that cannot be filled"),
        }
    }
}

impl World {
    /// Starts both, on a disk that can be filled if `small_disk` is set.
    pub async fn start(broker: Broker, small_disk: bool) -> anyhow::Result<Self> {
        let data = match small_disk {
            true => Data::Disk(SmallDisk::mount()?),
            false => Data::Folder(TempDir::new()?),
        };
        let (broker_data, index_data) = (data.path().join("broker"), data.path().join("index"));
        let (running, mut kafka) = match broker {
            Broker::Apache => {
                let parent = data.path().to_owned();
                let kafka = tokio::task::spawn_blocking(move || Kafka::start_in(&parent)).await?;
                let config =
                    KafkaConfig { profile: Profile::Kafka, ..KafkaConfig::embedded(kafka.brokers()) };
                (Running::Apache(kafka), config)
            }
            Broker::Embedded => {
                let broker = EmbeddedBroker::start(&broker_data, 0).await?;
                let config = KafkaConfig::embedded(broker.brokers());
                (Running::Embedded(Some(broker)), config)
            }
        };
        kafka.prefix = Prefix::new("chaos.")?;
        ensure_topics(&kafka).await?;
        let index = EmbeddedIndex::start(&index_data, 0).await?;
        let qdrant_url = index.url();
        let (broker, index) = (Mutex::new(running), Mutex::new(Some(index)));
        Ok(Self { kafka, qdrant_url, broker, index, broker_data, index_data, data })
    }

    /// Stops the broker: with SIGKILL if `kill` is set and it is a process, otherwise gracefully,
    /// as an operator would.
    pub async fn take_broker_away(&self, kill: bool) -> anyhow::Result<()> {
        let mut broker = self.broker.lock().await;
        match &mut *broker {
            Running::Apache(kafka) => tokio::task::block_in_place(|| match kill {
                true => kafka.kill(),
                false => kafka.stop(),
            }),
            Running::Embedded(broker) => broker.take().context("the broker is away already")?.stop().await?,
        }
        Ok(())
    }

    /// Starts the same broker again, on its data and its port.
    pub async fn give_broker_back(&self) -> anyhow::Result<()> {
        let mut broker = self.broker.lock().await;
        match &mut *broker {
            Running::Apache(kafka) => tokio::task::block_in_place(|| kafka.start_again()),
            Running::Embedded(broker) => {
                let port = port_of(&self.kafka.brokers)?;
                *broker = Some(EmbeddedBroker::start(&self.broker_data, port).await?);
            }
        }
        Ok(())
    }

    pub fn fill_disk(&self) -> anyhow::Result<()> {
        self.data.disk()?.fill()
    }

    /// Gives the disk its space back, and starts the broker again if it has ended meanwhile.
    pub async fn free_disk(&self) -> anyhow::Result<()> {
        self.data.disk()?.free()?;
        if let Running::Apache(kafka) = &mut *self.broker.lock().await {
            tokio::task::block_in_place(|| kafka.revive());
        }
        Ok(())
    }

    /// Limits the services to [`QUOTA`], or lifts the limit.
    pub async fn set_quota(&self, limited: bool) -> anyhow::Result<()> {
        let (change, quota) = match limited {
            true => ("--add-config", format!("producer_byte_rate={QUOTA},consumer_byte_rate={QUOTA}")),
            false => ("--delete-config", "producer_byte_rate,consumer_byte_rate".to_owned()),
        };
        let brokers = self.kafka.brokers.clone();
        let tool = move || {
            let of = ["--entity-type", "clients", "--entity-name", CLIENT_ID];
            let to = ["--bootstrap-server", &brokers, "--alter", change, &quota];
            Kafka::tool("kafka.admin.ConfigCommand", &[&to[..], &of[..]].concat())
        };
        let done = tokio::task::spawn_blocking(tool).await?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    pub async fn take_index_away(&self) -> anyhow::Result<()> {
        let index = self.index.lock().await.take().context("the index is away already")?;
        Ok(index.stop().await?)
    }

    pub async fn give_index_back(&self) -> anyhow::Result<()> {
        let index = EmbeddedIndex::start(&self.index_data, port_of(&self.qdrant_url)?).await?;
        *self.index.lock().await = Some(index);
        Ok(())
    }
}

fn port_of(address: &str) -> anyhow::Result<u16> {
    let port = address.rsplit(':').next().context("an address has a port")?;
    Ok(port.parse()?)
}
