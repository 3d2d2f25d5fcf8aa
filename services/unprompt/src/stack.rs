//! Runs services in one process, on one data directory, with the broker and the index that are not
//! configured elsewhere.

use anyhow::bail;
use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;
use unprompt_stream::data_dir::DataDir;
use unprompt_stream::{KafkaConfig, ensure_topics, health};

use crate::cli::ServiceName;
use crate::context::Context;
use crate::endpoints::Endpoints;
use crate::hosted::{self, EmbeddedBroker, EmbeddedIndex};
use crate::services::{Services, Wiring, wait_for_topics};

/// A running `unprompt up`.
#[derive(Debug)]
pub struct Stack {
    /// The context with the actual addresses of the servers.
    pub context: Context,
    wiring: Wiring,
    endpoints: Endpoints,
    broker: Option<EmbeddedBroker>,
    index: Option<EmbeddedIndex>,
    services: Services,
    http: health::HealthServer,
    stop: CancellationToken,
    _lock: DataDir,
}

impl Stack {
    /// Starts the servers that are not elsewhere, creates the topics, and starts `services`.
    ///
    /// Waits for a Kafka that is away. If `stop` comes first, no service is started.
    ///
    /// # Errors
    /// A second start on the same data directory, with the process that holds it.
    pub async fn start(
        context: &Context,
        services: &[ServiceName],
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let embedded = &context.config.embedded;
        let mut lock = DataDir::lock(&embedded.data_dir, "unprompt up")?;
        let (broker_data, index_data) = (embedded.data_dir.join("broker"), embedded.data_dir.join("index"));
        let broker = match context.kafka_given {
            true => None,
            false => Some(EmbeddedBroker::start(&broker_data, embedded.broker_port).await?),
        };
        let index = match context.config.index.url {
            Some(_) => None,
            None => Some(hosted::start_index(&index_data, embedded.index_port).await?),
        };
        let stop = stop.child_token();
        let health = health::Health::default();
        let http = health::serve(context.config.http.address(), health.clone(), stop.clone()).await?;
        let endpoints = Endpoints {
            kafka: broker.as_ref().map(EmbeddedBroker::address),
            qdrant: index.as_ref().map(EmbeddedIndex::address),
            http: http.address(),
            pid: std::process::id(),
        };
        endpoints.write(&embedded.data_dir)?;
        let wiring = wiring(context, &endpoints, health);
        lock.announce(&[("Kafka", wiring.kafka.brokers.clone()), ("Qdrant", wiring.index.url.clone())])?;
        let mut running = Services::new(wiring.clone(), stop.clone());
        if wait_for_topics(services, &wiring, &stop).await? {
            services.iter().for_each(|&service| running.spawn(service));
        }
        let context = wiring.context.clone();
        Ok(Self { context, wiring, endpoints, broker, index, services: running, http, stop, _lock: lock })
    }

    /// Starts another instance of `service` on the topics with the prefix of `kafka`.
    pub async fn also(&mut self, service: ServiceName, kafka: KafkaConfig) -> anyhow::Result<()> {
        ensure_topics(&kafka).await?;
        self.services.spawn_wired(service, Wiring { kafka, ..self.wiring.clone() });
        Ok(())
    }

    /// Returns the token that stops every service here. It is cancelled when one of them fails.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Returns the message that tells a person how to use the stack.
    pub fn welcome(&self) -> String {
        let (kafka, qdrant, http) = (&self.wiring.kafka, &self.wiring.index.url, &self.endpoints.http);
        let (brokers, images) = (&kafka.brokers, kafka.prefix.name(Topic::Images));
        format!(
            "unprompt is up; Ctrl-C stops it, and the data stays in {}\n\
             \x20 Kafka    {brokers}        kcat -P -b {brokers} -t {images} -H ce_id=mine picture.png\n\
             \x20 Qdrant   {qdrant} (gRPC)\n\
             \x20 health   http://{http}/readyz, metrics at /metrics",
            self.context.data_dir().display()
        )
    }

    /// Runs until `stop` or until a part fails, then stops everything in order.
    ///
    /// # Errors
    /// The failure of the first part.
    pub async fn run_until(self, stop: CancellationToken) -> anyhow::Result<()> {
        let failed = tokio::select! {
            // A stop ends the servers, too.
            biased;
            () = stop.cancelled() => None,
            () = self.stop.cancelled() => None,
            failed = self.failed() => Some(failed),
        };
        let Some((part, reason)) = failed else { return self.shut_down().await };
        self.wiring.health.service(part).fail(&reason);
        // The result of the stop says more of a server that has panicked, and what follows from its
        // end says less.
        match self.shut_down().await {
            Ok(()) => bail!("the {part} failed: {reason}; the log says more, start it again"),
            Err(error) => Err(error.context(format!("the {part} failed: {reason}"))),
        }
    }

    /// Waits until a server of this process no longer works, and returns its name and why.
    async fn failed(&self) -> (&'static str, String) {
        tokio::select! {
            failed = hosted::failed(self.broker.as_ref(), self.index.as_ref()) => failed,
            () = self.http.ended() => ("http listener", "it no longer answers".to_owned()),
        }
    }

    /// Stops the services first, so that they flush and commit, then the servers.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let services = self.services.finish().await;
        let index = match self.index {
            Some(index) => index.stop().await.map_err(anyhow::Error::from),
            None => Ok(()),
        };
        let broker = match self.broker {
            Some(broker) => broker.stop().await.map_err(anyhow::Error::from),
            None => Ok(()),
        };
        Endpoints::remove(self.context.data_dir());
        services?;
        index?;
        broker
    }
}

fn wiring(context: &Context, endpoints: &Endpoints, health: health::Health) -> Wiring {
    let mut context = context.clone();
    if let Some(address) = endpoints.kafka {
        context.config.kafka.brokers = address.to_string();
    }
    if let Some(address) = endpoints.qdrant {
        context.config.index.url = Some(format!("http://{address}"));
    }
    let (kafka, index) = (context.config.kafka.clone(), context.index_endpoint());
    Wiring { context, kafka, index, health }
}
