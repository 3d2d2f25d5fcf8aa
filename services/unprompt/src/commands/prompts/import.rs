//! `unprompt prompts import`: prompts from files of many kinds, cleaned, to prompts.v1; what was acknowledged is not
//! published again by a second run.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::checkpoint::Checkpoint;
use unprompt_corpus::report::Report;
use unprompt_corpus::{Clean, Corpus};
use unprompt_jobs::Progress;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{Publisher, ensure_topics};

use super::corpus::{self, Read};
use super::record;
use crate::cli::Import;
use crate::context::Context;
use crate::output;

/// Prompts published at once.
const CHUNK: usize = 1_000;
/// How often it is kept how far the import is.
const SAVE_EVERY: Duration = Duration::from_secs(1);

pub async fn run(context: &Context, args: Import, stop: CancellationToken) -> anyhow::Result<()> {
    let (options, count_tokens) = corpus::options(context, &args.reading)?;
    let report_to = args.reading.report.clone();
    let mut import = Published::default();
    let corpus = tokio::task::spawn_blocking(move || Corpus::open(options, count_tokens)).await??;
    let done = match args.dry_run {
        true => read_only(corpus, &stop, &mut import).await,
        false => publish(context, corpus, args.reading.restart, &stop, &mut import).await,
    };
    // What was read before an error or a stop is told too.
    if let (Some(path), Some(report)) = (&report_to, &import.report) {
        corpus::write_report(path, report)?;
    }
    done?;
    tell(context, &import, args.dry_run)
}

/// What this run did.
#[derive(Debug, Default)]
struct Published {
    published: u64,
    /// Published by an earlier run.
    before: u64,
    report: Option<Report>,
}

async fn publish(
    context: &Context,
    mut corpus: Corpus,
    restart: bool,
    stop: &CancellationToken,
    import: &mut Published,
) -> anyhow::Result<()> {
    let checkpoint = checkpoint(context, &mut corpus, restart)?;
    let acknowledged = checkpoint.as_ref().map_or(0, |(_, acknowledged)| *acknowledged);
    import.before = acknowledged;
    let checkpoint = checkpoint.map(|(checkpoint, _)| checkpoint);
    let (kafka, codec) = (context.kafka(), context.codec()?);
    ensure_topics(&kafka).await?;
    let (publisher, topic_name) = (Publisher::new(&kafka)?, kafka.prefix.name(Topic::Prompts));
    let mut publishing = Publishing { publisher, codec, topic_name, checkpoint, acknowledged, saved: None };
    let progress = Progress::new("importing (bytes)", corpus.bytes_total());
    let progress = if import.before == 0 { progress } else { progress.going_on() };
    let done = publishing.all(corpus::read(corpus, CHUNK), stop, import, &progress).await;
    publishing.close(done.is_ok())?;
    if done.is_ok() {
        progress.finish();
    }
    done
}

/// Publishes chunk by chunk, and keeps how far it is.
struct Publishing {
    publisher: Publisher,
    codec: Codec,
    topic_name: String,
    /// None where the sources cannot be read again.
    checkpoint: Option<Checkpoint>,
    /// Kept rows that are on the topic.
    acknowledged: u64,
    /// When that was kept last.
    saved: Option<Instant>,
}

impl Publishing {
    async fn all(
        &mut self,
        mut chunks: mpsc::Receiver<Read>,
        stop: &CancellationToken,
        import: &mut Published,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        loop {
            let Some(next) = stop.run_until_cancelled(next(&mut chunks, import)).await else {
                bail!(stopped(import, self.checkpoint.is_some()));
            };
            let Some((rows, bytes)) = next? else { return Ok(()) };
            import.published += self.chunk(rows).await?;
            progress.set_made(bytes, import.published, "prompts");
        }
    }

    async fn chunk(&mut self, rows: Vec<Clean>) -> anyhow::Result<u64> {
        let acknowledged = rows.last().map_or(self.acknowledged, |clean| clean.seq + 1);
        let records: Result<Vec<_>, _> =
            rows.into_iter().map(|clean| record(&self.codec, &self.topic_name, &prompt(clean))).collect();
        let published = self.publisher.publish_many(records?).await? as u64;
        self.acknowledged = acknowledged;
        if self.saved.is_none_or(|saved| saved.elapsed() >= SAVE_EVERY) {
            self.save()?;
        }
        Ok(published)
    }

    fn save(&mut self) -> anyhow::Result<()> {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.save(self.acknowledged)?;
        }
        self.saved = Some(Instant::now());
        Ok(())
    }

    /// Forgets how far it is when all is done, and keeps it otherwise.
    fn close(&mut self, done: bool) -> anyhow::Result<()> {
        match &self.checkpoint {
            Some(checkpoint) if done => Ok(checkpoint.remove()?),
            _ => self.save(),
        }
    }
}

/// Reads and cleans, and publishes nothing.
async fn read_only(corpus: Corpus, stop: &CancellationToken, import: &mut Published) -> anyhow::Result<()> {
    let progress = Progress::new("reading (bytes)", corpus.bytes_total());
    let mut chunks = corpus::read(corpus, CHUNK);
    loop {
        let Some(next) = stop.run_until_cancelled(next(&mut chunks, import)).await else {
            bail!("stopped; nothing was to be published");
        };
        let Some((_, bytes)) = next? else { break };
        progress.set(bytes);
    }
    progress.finish();
    Ok(())
}

/// Where an import of the same sources is, where they can be read again: the corpus goes on there.
fn checkpoint(
    context: &Context,
    corpus: &mut Corpus,
    restart: bool,
) -> anyhow::Result<Option<(Checkpoint, u64)>> {
    if !corpus.is_repeatable() {
        return Ok(None);
    }
    let folder = context.data_dir().join("imports");
    let (checkpoint, acknowledged) = Checkpoint::open(&folder, corpus.fingerprint(), restart)?;
    if acknowledged > 0 {
        eprintln!("{acknowledged} prompts were published by an earlier run: going on after them");
        corpus.resume(acknowledged);
    }
    Ok(Some((checkpoint, acknowledged)))
}

/// The next chunk and how many bytes were read then; none at the end, where the report is kept and what ended reading
/// too early is told.
async fn next(
    chunks: &mut mpsc::Receiver<Read>,
    import: &mut Published,
) -> anyhow::Result<Option<(Vec<Clean>, u64)>> {
    match chunks.recv().await {
        Some(Read::Chunk { rows, bytes }) => Ok(Some((rows, bytes))),
        Some(Read::End { report, fault }) => {
            import.report = Some(report);
            match fault {
                None => Ok(None),
                Some(fault) => Err(anyhow::Error::new(fault).context(so_far(import))),
            }
        }
        None => bail!("the thread that reads has ended: see above"),
    }
}

fn so_far(import: &Published) -> String {
    format!("the import ended early, after {} prompts were published", import.before + import.published)
}

fn stopped(import: &Published, resumable: bool) -> String {
    let count = import.before + import.published;
    match resumable {
        true => format!("stopped after {count} prompts; give the same command again to go on after them"),
        false => format!(
            "stopped after {count} prompts; a pipe cannot be gone on with, but importing all of it again is harmless"
        ),
    }
}

fn prompt(clean: Clean) -> Prompt {
    let row = clean.row;
    Prompt { text: row.text, source: row.source, seeds: row.seeds, attributes: row.attributes }
}

fn tell(context: &Context, import: &Published, dry_run: bool) -> anyhow::Result<()> {
    let report = import.report.clone().unwrap_or_default();
    let (published, skipped) = (import.published, report.dropped());
    if context.json {
        let before = import.before;
        return output::json(&serde_json::json!({
            "published": published, "published_before": before, "skipped": skipped, "report": report,
        }));
    }
    output::line(&report)?;
    if dry_run {
        return output::line("nothing was published: this was a dry run");
    }
    output::line(format!("{published} prompts published, {skipped} rows skipped"))
}
