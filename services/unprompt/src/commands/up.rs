//! `unprompt up`: broker, index and all services in this process, until it is told to stop.

use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::services;
use crate::stack::Stack;

pub async fn run(context: &Context, stop: CancellationToken) -> anyhow::Result<()> {
    // Before anything listens: models that are not here, or not what was published.
    context.check_models()?;
    let stack = Stack::start(context, &services::ALL, stop.clone()).await?;
    if !stop.is_cancelled() {
        eprintln!("{}", stack.welcome());
    }
    stack.run_until(stop).await
}
