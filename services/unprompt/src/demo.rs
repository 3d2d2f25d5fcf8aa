//! `unprompt demo`: the whole flow on the tiny world, from prompts to predictions and their score.
//!
//! The demo uses the topics as a user's pipeline would. A second generator, whose topics have their
//! own prefix, draws the held-out pictures, so that their prompts reach neither the index nor the
//! trainer. These pictures are then published to images.v1 without their prompts, and a consumer
//! that shares nothing with the services counts the results. On a configured Kafka the demo uses
//! topics with a prefix of its own. It refuses a configured Qdrant.

mod drive;
mod examples;
mod plan;
mod report;

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;
use unprompt_schemas::topics::{Prefix, Topic};
use unprompt_stream::data_dir;

use crate::cli::Demo;
use crate::config::Config;
use crate::context::Context;
use crate::service_table::ALL;
use crate::stack::Stack;
use plan::Plan;

/// Topic prefix of the generator of held-out pictures, after the common prefix.
const HELD_OUT_PREFIX: &str = "held-out.";
/// File that marks a data directory that the demo may empty.
const MARKER: &str = "made-by-unprompt-demo";

pub async fn run(context: Context, args: Demo, stop: CancellationToken) -> anyhow::Result<()> {
    let started = Instant::now();
    let context = own_topics(own_data_dir(context)?)?;
    let plan = Plan::draw(&args);
    eprintln!("{}", plan.summary());
    let mut stack = Stack::start(&context, &ALL, stop.clone()).await?;
    let driven = drive(&mut stack, &plan, &args, stop.clone(), started).await;
    match driven {
        Ok(()) if !args.once => {
            eprintln!("\n{}\n{}", stack.welcome(), what_next(&stack.context));
            stack.run_until(stop).await
        }
        done => {
            let stopped = stack.shut_down().await;
            done?;
            stopped
        }
    }
}

async fn drive(
    stack: &mut Stack,
    plan: &Plan,
    args: &Demo,
    stop: CancellationToken,
    started: Instant,
) -> anyhow::Result<()> {
    let failed = stack.stop_token().clone();
    let report = tokio::select! {
        report = drive::all(stack, plan) => report?,
        () = stop.cancelled() => bail!("stopped before the end; nothing is lost, but a new demo starts afresh"),
        () = failed.cancelled() => bail!("a service stopped; its log lines above say why"),
    };
    let report = report.finished(started.elapsed());
    report.print()?;
    report.write(&args.report)?;
    report.check()
}

/// Creates or empties the data directory of the demo. Never empties a folder that the demo did not
/// create.
fn own_data_dir(mut context: Context) -> anyhow::Result<Context> {
    let folder = context.data_dir().join("demo");
    if folder.exists() && !folder.join(MARKER).is_file() {
        bail!("{} was not made by the demo; move it away or choose another --data-dir", folder.display());
    }
    if folder.exists() {
        refuse_while_in_use(&folder)?;
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("{} cannot be emptied", folder.display()))?;
    }
    data_dir::create(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    std::fs::write(folder.join(MARKER), "emptied at each start of `unprompt demo`\n")?;
    context.config.embedded.data_dir = folder;
    Ok(context)
}

/// Chooses the topics of the run: a new prefix on a configured Kafka, which keeps the topics of
/// earlier demos. The index is always the embedded one.
fn own_topics(mut context: Context) -> anyhow::Result<Context> {
    if let Some(url) = &context.config.index.url {
        bail!(
            "the demo would put its prompts into the collection at {url}; run it without --qdrant and [index] url"
        );
    }
    if context.kafka_given && context.config.kafka.prefix == Prefix::default() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        context.config.kafka.prefix = Prefix::new(&format!("demo-{now}."))?;
        eprintln!(
            "topics and groups on {} begin with {:?} and stay there",
            context.config.kafka.brokers,
            context.config.kafka.prefix.as_str()
        );
    }
    Ok(context)
}

/// Refuses a folder whose lock another process holds.
fn refuse_while_in_use(folder: &Path) -> anyhow::Result<()> {
    drop(data_dir::DataDir::lock(folder, "unprompt demo")?);
    Ok(())
}

fn what_next(context: &Context) -> String {
    let folder = context.data_dir().display();
    let binary = std::env::current_exe().unwrap_or_else(|_| "unprompt".into());
    let mut unprompt = format!("{} --data-dir {folder}", binary.display());
    if context.kafka_given {
        let Config { kafka, .. } = &context.config;
        let prefix = kafka.prefix.as_str();
        unprompt = format!("UNPROMPT__KAFKA__PREFIX={prefix} {unprompt} --kafka {}", kafka.brokers);
    }
    let (kafka, images) = (&context.config.kafka.brokers, context.config.kafka.prefix.name(Topic::Images));
    format!(
        "what to try next, in another terminal:\n\
         \x20 {unprompt} predict {folder}/pictures/1.png\n\
         \x20 {unprompt} query --text \"a red fish in the deep ocean\"\n\
         \x20 {unprompt} query --image {folder}/pictures/2.png\n\
         \x20 kcat -P -b {kafka} -t {images} -H ce_id=mine {folder}/pictures/3.png\n\
         \x20 {unprompt} topics tail predictions.v1\n\
         \x20 {unprompt} doctor"
    )
}
