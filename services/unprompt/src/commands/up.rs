//! `unprompt up`: hosts broker, index and all services in this process until it is stopped.

use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::service_table::ALL;
use crate::stack::Stack;

pub async fn run(context: &Context, stop: CancellationToken) -> anyhow::Result<()> {
    // Fails before anything listens if a model is missing or differs from its published files.
    context.check_models()?;
    let stack = Stack::start(context, &ALL, stop.clone()).await?;
    if !stop.is_cancelled() {
        eprintln!("{}", stack.welcome());
    }
    stack.run_until(stop).await
}
