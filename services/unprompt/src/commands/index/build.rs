//! `unprompt index build`: prompts from files, cleaned, embedded here and written into the collection in bulk; then the graph. For
//! millions of prompts, past the topics; killed at any point it goes on where it was when it is called again.

mod embed;
mod progress;

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::Corpus;
use unprompt_corpus::checkpoint::Checkpoint;
use unprompt_index::{Ensured, PromptPoint};

use self::embed::{Embedded, Embedder, Mark, NearState};
use self::progress::Run;
use super::optimize;
use crate::cli::IndexBuild;
use crate::commands::prompts::corpus as reading;
use crate::context::Context;
use crate::index_access::IndexAccess;
use crate::output;

/// Prompts embedded together: enough of them for batches of equal length. They are the same ones in every run, so that a run that
/// goes on makes the very same vectors.
const CHUNK: usize = 4_096;
/// Chunks that the index is writing.
const WRITING: usize = 2;
/// Between two attempts to write.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

pub async fn run(
    context: &Context,
    index: &IndexAccess,
    args: IndexBuild,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (options, count_tokens) = reading::options(context, &args.reading)?;
    let corpus = tokio::task::spawn_blocking(move || Corpus::open(options, count_tokens)).await??;
    let embedder = load(context).await?;
    let layout = embedder.layout().profile(args.profile.unwrap_or(context.config.index.profile));
    let ensured = index.ensure(&layout).await?;
    let mut run = begin(context, index, corpus, &ensured, &args).await?;
    index.begin_bulk().await?;
    let done = fill(index, embedder, &mut run, &args, stop).await;
    // What was read before an error or a stop is told too.
    if let (Some(path), Some(report)) = (&args.reading.report, &run.report) {
        reading::write_report(path, report)?;
    }
    done?;
    run.written();
    finish(index, &run, &args, stop).await?;
    run.remove()?;
    tell(context, index, &run).await
}

async fn load(context: &Context) -> anyhow::Result<Embedder> {
    let (models, engine) = (context.models()?, context.config.models.engine);
    tokio::task::spawn_blocking(move || Embedder::load(&models, engine)).await?
}

/// Goes on after what an earlier run of the same has had acknowledged.
async fn begin(
    context: &Context,
    index: &IndexAccess,
    corpus: Corpus,
    ensured: &Ensured,
    args: &IndexBuild,
) -> anyhow::Result<Run> {
    if !corpus.is_repeatable() {
        return Ok(Run::of(corpus, None));
    }
    let mut fingerprint = corpus.fingerprint();
    let by = json!({"collection": ensured.collection, "near_duplicate": args.near_duplicate, "reading": fingerprint.options});
    fingerprint.options = by;
    let folder = context.data_dir().join("builds");
    let (mut checkpoint, mut acknowledged) =
        Checkpoint::open(&folder, fingerprint.clone(), args.reading.restart)?;
    let near: NearState = checkpoint.state().unwrap_or_default();
    let points = index.info().await?.points;
    if points < acknowledged - near.dropped() {
        eprintln!("the collection holds {points} prompts, fewer than an earlier run wrote: beginning again");
        (checkpoint, acknowledged) = Checkpoint::open(&folder, fingerprint, true)?;
    }
    if acknowledged > 0 {
        eprintln!("{acknowledged} prompts were indexed by an earlier run: going on after them");
    }
    Ok(Run::of(corpus, Some((checkpoint, acknowledged))))
}

/// Reads, embeds and writes beside each other; how far it is gets kept in the order of the rows.
async fn fill(
    index: &IndexAccess,
    embedder: Embedder,
    run: &mut Run,
    args: &IndexBuild,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let near = run.near(args.near_duplicate)?;
    let found_ms = run.found_ms();
    let mut chunks = embedder.start(run.start_reading(CHUNK)?, near, found_ms);
    let mut writing = FuturesOrdered::new();
    let mut fault = None;
    let mut ended = false;
    while !(writing.is_empty() && (ended || stop.is_cancelled())) {
        let room = !ended && writing.len() < WRITING && !stop.is_cancelled();
        tokio::select! {
            Some(written) = writing.next(), if !writing.is_empty() => match written {
                Ok(mark) => run.acknowledged(mark)?,
                Err(error) => return Err(error),
            },
            chunk = chunks.recv(), if room => match chunk {
                Some(Embedded::Chunk { points, mark }) => writing.push_back(write(index, points, mark, stop)),
                Some(Embedded::End { report, fault: found }) => {
                    run.ended(report);
                    (fault, ended) = (found, true);
                }
                None => bail!("the thread that embeds has ended: see above"),
            },
            () = stop.cancelled(), if !stop.is_cancelled() => {}
        }
    }
    match fault {
        Some(fault) => Err(fault.context(run.so_far())),
        None if ended => Ok(()),
        None => bail!(run.stopped()),
    }
}

/// Writes a chunk; an index that is away, or whose disk is full, is waited for until somebody stops us.
async fn write(
    index: &IndexAccess,
    points: Vec<PromptPoint>,
    mark: Mark,
    stop: &CancellationToken,
) -> anyhow::Result<Mark> {
    let mut told = false;
    loop {
        let error = match index.upsert(points.clone()).await {
            Ok(()) => return Ok(mark),
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error.into()),
        };
        if !std::mem::replace(&mut told, true) {
            eprintln!("{error}; trying again every {} s, Ctrl-C to stop", AGAIN_AFTER.as_secs());
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            () = stop.cancelled() => bail!("stopped while the index did not take prompts ({error}); give the same command again to go on"),
        }
    }
}

async fn finish(
    index: &IndexAccess,
    run: &Run,
    args: &IndexBuild,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if args.no_graph {
        eprintln!("no graph was built: searches compare with every prompt until `unprompt index optimize`");
        return Ok(());
    }
    let built = optimize::build(index, stop).await?;
    built.map(drop).with_context(|| format!("stopped while the graph was built; {}", run.again()))
}

async fn tell(context: &Context, index: &IndexAccess, run: &Run) -> anyhow::Result<()> {
    let (report, info) = (run.report.clone().unwrap_or_default(), index.info().await?);
    if context.json {
        return output::json(&json!({
            "indexed": run.indexed(), "indexed_before": run.before(), "skipped": report.dropped(),
            "collection": info.collection, "points": info.points, "report": report,
        }));
    }
    output::line(&report)?;
    let (indexed, before, points) = (run.indexed(), run.before(), info.points);
    let before = if before == 0 { String::new() } else { format!(" after {before} of an earlier run") };
    output::line(format!("{indexed} prompts indexed{before}; {} holds {points}", info.collection))
}
