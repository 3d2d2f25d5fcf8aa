//! The runner with a stage that copies.

use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::Topic;
use unprompt_stream::config::Delivery;
use unprompt_stream::pass_through::PassThrough;
use unprompt_stream::{
    BatchError, Health, InputRecord, KafkaConfig, Outcome, RunnerConfig, Stage, run_stage,
};

/// [`PassThrough`] under a name of its own, so that every round has a consumer group of its own.
struct Named(&'static str, PassThrough);

impl Stage for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn inputs(&self) -> &'static [Topic] {
        self.1.inputs()
    }

    fn outputs(&self) -> &'static [Topic] {
        self.1.outputs()
    }

    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        self.1.process(batch)
    }
}

/// Runs until `stop`, with the defaults of every service.
pub async fn run(
    kafka: &KafkaConfig,
    group: &str,
    transactional: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let name: &'static str = group.to_owned().leak();
    let delivery = if transactional { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce };
    let config = RunnerConfig { delivery, ..RunnerConfig::default() };
    let load = move || Ok::<_, String>(Box::new(Named(name, PassThrough)) as Box<dyn Stage>);
    run_stage(kafka, config, name, load, stop, Health::default()).await?;
    Ok(())
}
