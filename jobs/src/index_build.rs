//! Builds the prompt index in bulk: embeds the prompts of a corpus, writes them straight into the
//! collection instead of through the topics, then builds the graph. It is meant for millions of
//! prompts; a build that was killed resumes where it stopped.

mod embedder;
mod graph;
mod near;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::Corpus;
use unprompt_corpus::checkpoint::Fingerprint;
use unprompt_corpus::report::CorpusReport;
use unprompt_index::{Profile, PromptIndex, PromptPoint};

use self::embedder::{EmbeddedChunk, Embedder};
use self::near::{Near, NearState};
use crate::blocking::blocking;
use crate::{CheckpointSettings, Chunk, ChunkEnd, JobError, ModelFolders, PROGRESS_TARGET};
use crate::{ResumableRun, RunSettings};

pub use graph::build_graph;

/// The prompts of a chunk, enough to form batches of equal length. Chunks are the same in every
/// run, so that a resumed run makes exactly the same vectors.
const CHUNK: usize = 4_096;
/// The chunks written to the index concurrently.
const WRITING: usize = 2;
/// The delay between attempts to write.
const RETRY_AFTER: Duration = Duration::from_secs(5);

const INDEX_BUILD: RunSettings =
    RunSettings { label: "indexing (bytes)", unit: "prompts", chunk: CHUNK, folder: "builds" };

/// The choices of an index build.
#[derive(Clone, Debug)]
pub struct IndexBuildSettings {
    /// The profile of a new collection.
    pub profile: Profile,
    /// Drops prompts whose MiniLM vector has at least this cosine to an earlier prompt's.
    pub near_duplicate: Option<f32>,
    /// True to build the graph at the end.
    pub graph: bool,
}

/// An index build in progress.
#[derive(Debug)]
pub struct IndexBuild {
    settings: IndexBuildSettings,
    index: PromptIndex,
    /// None while it is in use on an embedding thread.
    embedder: Option<Embedder>,
    run: ResumableRun<NearState>,
    forgotten: Option<u64>,
}

/// The summary of an index build.
#[derive(Clone, Debug)]
pub struct IndexBuildSummary {
    pub indexed: u64,
    /// The prompts indexed by earlier runs.
    pub indexed_before: u64,
    /// None if reading did not reach the end. Near duplicates count as dropped.
    pub report: Option<CorpusReport>,
}

/// A chunk that is durable in the index.
struct WrittenChunk {
    end: ChunkEnd,
    points: u64,
    near: NearState,
}

impl IndexBuild {
    /// Loads the networks, creates the collection if there is none, and opens the run. Resumes
    /// after the prompts that an earlier run indexed.
    ///
    /// # Errors
    /// A model that cannot be loaded, a collection of another encoder, and those of
    /// [`ResumableRun::open`].
    pub async fn open(
        index: &PromptIndex,
        models: &ModelFolders,
        corpus: Corpus,
        settings: IndexBuildSettings,
        checkpoints: &CheckpointSettings,
    ) -> Result<Self, JobError> {
        let (models, times) = (models.clone(), embedder::input_times(&corpus));
        let embedder = blocking("loads the networks", move || Embedder::load(&models, times)).await??;
        let ensured = index.ensure(&embedder.layout().profile(settings.profile)).await?;
        let fingerprint = fingerprint(&corpus, &ensured.collection, settings.near_duplicate);
        let has_distinct_prompts = corpus.has_distinct_prompts();
        let run = ResumableRun::open(corpus, INDEX_BUILD, fingerprint, Some(checkpoints))?;
        let (index, embedder) = (index.clone(), Some(embedder));
        let mut build = Self { settings, index, embedder, run, forgotten: None };
        build.restart_if_points_are_lost(has_distinct_prompts).await?;
        Ok(build)
    }

    /// Restarts at the first prompt if the collection has lost points, for example because it was
    /// dropped.
    async fn restart_if_points_are_lost(&mut self, has_distinct_prompts: bool) -> Result<(), JobError> {
        let written = self.run.resumed_at() - self.run.state().dropped();
        if written > 0 {
            let points = self.index.info().await?.points;
            if points < least_points(written, has_distinct_prompts) {
                self.run.restart()?;
                self.forgotten = Some(points);
            }
        }
        Ok(())
    }

    /// Returns the number of prompts that earlier runs processed.
    pub fn resumed_at(&self) -> u64 {
        self.run.resumed_at()
    }

    /// Returns the number of prompts in the collection if they are fewer than an earlier run wrote,
    /// so that this run starts again.
    pub fn forgotten(&self) -> Option<u64> {
        self.forgotten
    }

    /// Indexes the rest of the corpus, and builds the graph if the settings ask for it.
    ///
    /// Retries while the index is unreachable or its disk is full.
    ///
    /// # Errors
    /// Those of [`ResumableRun::next`]; a network that fails; an index that refuses points.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), JobError> {
        let vectors = self.vectors_file();
        let done = match self.fill(stop).await {
            Ok(()) => self.optimise(stop).await,
            failed => failed,
        };
        self.run.end(done)?;
        vectors.map_or(Ok(()), |file| remove(&file))
    }

    async fn optimise(&mut self, stop: &CancellationToken) -> Result<(), JobError> {
        self.run.end_progress();
        if self.settings.graph && build_graph(&self.index, stop).await?.is_none() {
            return Err(JobError::GraphStopped { advice: self.run.advice() });
        }
        Ok(())
    }

    /// Returns the summary so far.
    pub fn summary(&self) -> IndexBuildSummary {
        let indexed = self.run.made();
        let indexed_by_all = self.run.acknowledged() - self.run.state().dropped();
        IndexBuildSummary { indexed, indexed_before: indexed_by_all - indexed, report: self.report() }
    }

    /// Returns the reader's report with near duplicates counted as dropped; the reader counts them
    /// as kept.
    fn report(&self) -> Option<CorpusReport> {
        let report = self.run.report()?.clone();
        Some(match &self.embedder {
            Some(embedder) => embedder.without_near_duplicates(report),
            None => report,
        })
    }

    /// Reads, embeds and writes concurrently; acknowledges chunks in the order of their rows.
    ///
    /// Writes in progress when reading ends, for whatever reason, are still acknowledged.
    async fn fill(&mut self, stop: &CancellationToken) -> Result<(), JobError> {
        self.find_near_duplicates().await?;
        self.index.begin_bulk().await?;
        let (mut embedding, mut writing) = (FuturesOrdered::new(), FuturesOrdered::new());
        let mut ended: Option<Result<(), JobError>> = None;
        while ended.is_none() || !embedding.is_empty() || !writing.is_empty() {
            tokio::select! {
                Some(written) = writing.next(), if !writing.is_empty() => self.acknowledge(written?)?,
                Some(embedded) = embedding.next(), if writing.len() < WRITING => {
                    match self.take_back(embedded) {
                        Ok(chunk) => writing.push_back(self.write(chunk, stop)),
                        Err(error) => ended = Some(Err(error)),
                    }
                }
                chunk = self.run.next(stop), if ended.is_none() && self.embedder.is_some() => match chunk {
                    Ok(Some(chunk)) => embedding.extend(self.embed(chunk)),
                    Ok(None) => ended = Some(Ok(())),
                    Err(error) => ended = Some(Err(error)),
                },
                () = stop.cancelled(), if ended.is_none() || !embedding.is_empty() => {
                    embedding = FuturesOrdered::new();
                    ended = Some(Err(self.run.stopped()));
                }
            }
        }
        ended.unwrap_or(Ok(()))
    }

    /// Opens the search for near duplicates, if the settings ask for one, in the state of the
    /// earlier run.
    async fn find_near_duplicates(&mut self) -> Result<(), JobError> {
        let (Some(threshold), Some(embedder)) = (self.settings.near_duplicate, &mut self.embedder) else {
            return Ok(());
        };
        let file = self.run.checkpoint_path().map(vectors_beside);
        let state = self.run.state().clone();
        let near = blocking("reads earlier vectors", move || Near::open(threshold, file.as_deref(), state));
        embedder.find_near_duplicates(near.await??);
        Ok(())
    }

    /// Starts to embed a chunk on a blocking thread.
    fn embed(&mut self, chunk: Chunk) -> Option<impl Future<Output = Embedding> + use<>> {
        let mut embedder = self.embedder.take()?;
        Some(blocking("embeds", move || {
            let embedded = embedder.embed(chunk);
            (embedder, embedded)
        }))
    }

    fn take_back(&mut self, embedding: Embedding) -> Result<EmbeddedChunk, JobError> {
        let (embedder, embedded) = embedding?;
        self.embedder = Some(embedder);
        embedded
    }

    fn write(
        &self,
        chunk: EmbeddedChunk,
        stop: &CancellationToken,
    ) -> impl Future<Output = Result<WrittenChunk, JobError>> + use<> {
        let (index, advice, stop) = (self.index.clone(), self.run.advice(), stop.clone());
        async move {
            let EmbeddedChunk { points, end, near } = chunk;
            write_points(&index, &points, advice, &stop).await?;
            Ok(WrittenChunk { end, points: points.len() as u64, near })
        }
    }

    fn acknowledge(&mut self, written: WrittenChunk) -> Result<(), JobError> {
        self.run.acknowledge(written.end, written.points, |near| *near = written.near)
    }

    /// Returns the file of vectors for the search for near duplicates.
    fn vectors_file(&self) -> Option<PathBuf> {
        self.run.checkpoint_path().map(vectors_beside)
    }
}

/// The embedder with its result, or the error that its thread ended too early.
type Embedding = Result<(Embedder, Result<EmbeddedChunk, JobError>), JobError>;

fn vectors_beside(checkpoint: &Path) -> PathBuf {
    checkpoint.with_extension("vectors")
}

/// Returns the least number of points that `written` prompts make. Equal prompts share a point.
fn least_points(written: u64, has_distinct_prompts: bool) -> u64 {
    if has_distinct_prompts { written } else { written.min(1) }
}

/// Returns the corpus' fingerprint, extended by everything else that determines the points.
fn fingerprint(corpus: &Corpus, collection: &str, near_duplicate: Option<f32>) -> Fingerprint {
    let mut fingerprint = corpus.fingerprint();
    fingerprint.options = json!({
        "collection": collection, "near_duplicate": near_duplicate, "reading": fingerprint.options,
    });
    fingerprint
}

/// Writes points. Retries until `stop` while the index is unreachable or its disk is full.
async fn write_points(
    index: &PromptIndex,
    points: &[PromptPoint],
    advice: &'static str,
    stop: &CancellationToken,
) -> Result<(), JobError> {
    let mut is_told = false;
    loop {
        let error = match index.upsert(points.to_vec()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error.into()),
        };
        if !std::mem::replace(&mut is_told, true) {
            let every_s = RETRY_AFTER.as_secs();
            tracing::warn!(target: PROGRESS_TARGET, %error, every_s, "trying to write again until it succeeds");
        }
        if stop.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await.is_none() {
            return Err(JobError::StoppedWaiting { reason: error, advice });
        }
    }
}

fn remove(file: &Path) -> Result<(), JobError> {
    match std::fs::remove_file(file) {
        Err(reason) if reason.kind() != std::io::ErrorKind::NotFound => {
            Err(JobError::NotRemoved { path: file.to_owned(), reason })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_duplicates_are_not_taken_for_lost_points() {
        assert_eq!((least_points(4_096, true), least_points(4_096, false)), (4_096, 1));
        assert_eq!(least_points(0, false), 0);
    }
}
