//! `unprompt prompts`: imports prompts, and prints prompts of the tiny world's grammar.

pub mod corpus;
mod import;
mod sample;

use tokio_util::sync::CancellationToken;

use crate::cli::Prompts;
use crate::context::Context;

pub async fn run(context: &Context, command: Prompts, stop: CancellationToken) -> anyhow::Result<()> {
    match command {
        Prompts::Import(args) => import::run(context, args, stop).await,
        Prompts::Sample(args) => tokio::task::spawn_blocking(move || sample::run(&args, &stop)).await?,
    }
}
