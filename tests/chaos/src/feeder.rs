//! Publishes the records of a feed in the order of their numbers, with a producer that shares no
//! code with the services.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context as _;
use futures::future::try_join_all;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use tokio::sync::{Mutex, MutexGuard};
use unprompt_schemas::topics::Prefix;

use crate::LOOK;
use crate::feed::{Feed, FeedRecord};
use crate::patience::PATIENCE;
use crate::strike::lag_of;
use crate::world::World;

/// Records per publication during the chaos.
const PORTION: usize = 2_000;
/// The minimum lag of the encoders during the chaos.
const KEPT_LAG: u64 = 3_000;
/// The largest record of the feed is 4 MB.
pub const MAX_BYTES: &str = "20000000";

pub struct Feeder<'a> {
    pub feed: Feed,
    world: &'a World,
    producer: FutureProducer,
    published: AtomicUsize,
    over: AtomicBool,
    publishing: Mutex<()>,
}

impl<'a> Feeder<'a> {
    pub fn new(world: &'a World, feed: Feed) -> anyhow::Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &world.kafka.brokers)
            .set("client.id", "chaos")
            .set("enable.idempotence", "true")
            .set("message.max.bytes", MAX_BYTES)
            .create()?;
        let (published, over, publishing) = Default::default();
        Ok(Self { feed, world, producer, published, over, publishing })
    }

    pub fn published(&self) -> usize {
        self.published.load(Ordering::Relaxed)
    }

    /// Publishes further `count` records and waits for their acknowledgement.
    pub async fn publish(&self, count: usize) -> anyhow::Result<()> {
        let _publishing = self.publishing.lock().await;
        let (from, feed) = (self.published(), self.feed.clone());
        // Drawing takes seconds on a busy machine and must not delay the task that waits for a
        // moment to strike.
        let draw = move || (from..from + count).map(|number| feed.record(number)).collect::<Vec<_>>();
        let records = tokio::task::spawn_blocking(draw).await?;
        let prefix = &self.world.kafka.prefix;
        try_join_all(records.iter().map(|record| send(&self.producer, prefix, record))).await?;
        self.published.store(from + count, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for the publication that is under way, and prevents further ones while the value
    /// lives: a producer that gives up after a fault would not know what it has published.
    pub async fn paused(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().await
    }

    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Publishes more records during the chaos, so that there is always something to lose.
    pub async fn keep_feeding(&self) -> anyhow::Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
            // An unavailable broker is asked again.
            if lag_of(self.world, "image-encoder").await.is_ok_and(|lag| lag < KEPT_LAG) {
                self.publish(PORTION).await?;
            }
        }
        Ok(())
    }
}

/// Publishes a record and waits for its acknowledgement.
pub async fn send(producer: &FutureProducer, prefix: &Prefix, record: &FeedRecord) -> anyhow::Result<()> {
    let topic = prefix.name(record.topic);
    let header = |headers: OwnedHeaders, (key, value): &(&str, String)| {
        headers.insert(Header { key, value: Some(value) })
    };
    let headers = record.headers.iter().fold(OwnedHeaders::new(), header);
    let to_send = FutureRecord::to(&topic).key(&record.key).payload(&record.value).headers(headers);
    let to_send = match record.timestamp_ms {
        Some(time) => to_send.timestamp(time),
        None => to_send,
    };
    let sent = producer.send(to_send, Timeout::After(PATIENCE)).await;
    sent.map(drop).map_err(|(error, _)| error).with_context(|| format!("a record for {topic} is published"))
}
