//! `unprompt serve <service>`: runs one service on a Kafka and a Qdrant of other processes.

use tokio_util::sync::CancellationToken;
use unprompt_stream::health;

use crate::cli::ServiceName;
use crate::context::Context;
use crate::services::{Services, Wiring};

pub async fn run(context: &Context, service: ServiceName, stop: CancellationToken) -> anyhow::Result<()> {
    let kafka = context.kafka();
    let health = health::Health::default();
    let listener = health::serve(context.config.http.address(), health.clone(), stop.clone()).await?;
    eprintln!("health and metrics on http://{}", listener.address());
    let wiring = Wiring { context: context.clone(), kafka, index: context.index_endpoint(), health };
    let mut services = Services::new(wiring, stop);
    services.spawn(service);
    services.finish().await
}
