//! The runner with a stage that copies.

use tokio_util::sync::CancellationToken;
use unprompt_stream::config::Delivery;
use unprompt_stream::pass_through::{self, PassThrough};
use unprompt_stream::{Health, KafkaConfig, RunnerConfig, Service, Stage, run_stage};

/// Runs until `stop`, with the default settings of services.
pub async fn run(
    kafka: &KafkaConfig,
    group: &str,
    transactional: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // A unique name gives every round its own consumer group.
    let service = Service { name: group.to_owned().leak(), ..pass_through::SERVICE };
    let delivery = if transactional { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce };
    let config = RunnerConfig { delivery, ..RunnerConfig::default() };
    let load = move || Ok::<_, String>(Box::new(PassThrough) as Box<dyn Stage>);
    run_stage(kafka, config, service, load, stop, Health::default()).await?;
    Ok(())
}
