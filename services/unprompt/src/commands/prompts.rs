//! `unprompt prompts`: bring prompts in, and print prompts of the tiny world's grammar.

pub mod corpus;
mod import;
mod sample;

use tokio_util::sync::CancellationToken;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::OutputRecord;

use crate::cli::Prompts;
use crate::context::Context;

pub async fn run(context: &Context, command: Prompts, stop: CancellationToken) -> anyhow::Result<()> {
    match command {
        Prompts::Import(args) => import::run(context, args, stop).await,
        Prompts::Sample(args) => tokio::task::spawn_blocking(move || sample::run(&args, &stop)).await?,
    }
}

/// The record that publishes `prompt`.
pub fn record(codec: &Codec, topic_name: &str, prompt: &Prompt) -> anyhow::Result<OutputRecord> {
    Ok(OutputRecord {
        topic: Topic::Prompts,
        key: Some(prompt_id(&prompt.text).to_string().into_bytes()),
        value: Some(codec.encode(topic_name, prompt)?),
        headers: Vec::new(),
    })
}
