//! Broker, index and services in one process, on one data directory.

use tokio_util::sync::CancellationToken;
use unprompt_index::embedded::EmbeddedIndex;
use unprompt_stream::data_dir::DataDir;
use unprompt_stream::embedded::EmbeddedBroker;
use unprompt_stream::{KafkaConfig, ensure_topics, health};

use crate::cli::ServiceName;
use crate::context::Context;
use crate::endpoints::Endpoints;
use crate::services::{Services, Wiring};

/// A running `unprompt up`.
#[derive(Debug)]
pub struct Stack {
    /// The context with the addresses that the servers got.
    pub context: Context,
    wiring: Wiring,
    endpoints: Endpoints,
    broker: EmbeddedBroker,
    index: EmbeddedIndex,
    services: Services,
    stop: CancellationToken,
    _lock: DataDir,
}

impl Stack {
    /// Starts both servers, makes the topics, and starts `services`; a second start on the same data says who has it.
    pub async fn start(
        context: &Context,
        services: &[ServiceName],
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let embedded = &context.config.embedded;
        let mut lock = DataDir::lock(&embedded.data_dir, "unprompt up")?;
        let broker = EmbeddedBroker::start(&embedded.data_dir.join("broker"), embedded.broker_port).await?;
        let index = EmbeddedIndex::start(&embedded.data_dir.join("index"), embedded.index_port).await?;
        let stop = stop.child_token();
        let health = health::Health::default();
        let http = health::serve(context.config.http.address(), health.clone(), stop.clone()).await?;
        let endpoints = Endpoints {
            kafka: broker.address(),
            qdrant: index.address(),
            http: http.address(),
            pid: std::process::id(),
        };
        endpoints.write(&embedded.data_dir)?;
        lock.announce(&[("Kafka", endpoints.kafka.to_string()), ("Qdrant", endpoints.qdrant.to_string())])?;
        let wiring = wiring(context, &endpoints, health);
        ensure_topics(&wiring.kafka).await?;
        let mut running = Services::new(wiring.clone(), stop.clone());
        services.iter().for_each(|&service| running.spawn(service));
        let context = wiring.context.clone();
        Ok(Self { context, wiring, endpoints, broker, index, services: running, stop, _lock: lock })
    }

    /// Starts another instance of `service` on topics with this prefix.
    pub async fn also(&mut self, service: ServiceName, kafka: KafkaConfig) -> anyhow::Result<()> {
        ensure_topics(&kafka).await?;
        self.services.spawn_wired(service, Wiring { kafka, ..self.wiring.clone() });
        Ok(())
    }

    /// The token that every service here stops by; it is cancelled when one of them fails.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// What a person needs to know to use it.
    pub fn welcome(&self) -> String {
        let Endpoints { kafka, qdrant, http, .. } = &self.endpoints;
        format!(
            "unprompt is up; Ctrl-C stops it, and the data stays in {}\n\
             \x20 Kafka    {kafka}        kcat -P -b {kafka} -t images.v1 -H ce_id=mine picture.png\n\
             \x20 Qdrant   http://{qdrant} (gRPC)\n\
             \x20 health   http://{http}/readyz, metrics at /metrics",
            self.context.data_dir().display()
        )
    }

    /// Runs until `stop` or until a service fails, then stops everything in order.
    pub async fn run_until(self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
        self.shut_down().await
    }

    /// Services first (they flush and commit), then the servers.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let services = self.services.finish().await;
        let index = self.index.stop().await;
        let broker = self.broker.stop().await;
        Endpoints::remove(self.context.data_dir());
        services?;
        index?;
        Ok(broker?)
    }
}

fn wiring(context: &Context, endpoints: &Endpoints, health: health::Health) -> Wiring {
    let mut context = context.clone();
    context.config.kafka.brokers = endpoints.kafka.to_string();
    context.config.index.url = format!("http://{}", endpoints.qdrant);
    let (kafka, qdrant_url) = (context.config.kafka.clone(), context.config.index.url.clone());
    Wiring { context, kafka, qdrant_url, health }
}
