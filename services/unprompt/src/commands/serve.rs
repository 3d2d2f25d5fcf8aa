//! `unprompt serve <service>`: runs one service on a Kafka and a Qdrant of other processes.

use std::pin::pin;

use anyhow::bail;
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
    let mut services = Services::new(wiring, stop.clone());
    services.spawn(service);
    let mut finishing = pin!(services.finish());
    tokio::select! {
        finished = &mut finishing => return finished,
        () = listener.ended() => {}
    }
    if stop.is_cancelled() {
        return finishing.await;
    }
    // Without its listener, nobody would see whether it is ready.
    stop.cancel();
    finishing.await?;
    bail!("the http listener no longer answers; the log says why, start the service again")
}
