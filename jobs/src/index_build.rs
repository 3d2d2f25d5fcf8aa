//! Builds the prompt index in bulk: prompts of a corpus are embedded here and written into the
//! collection past the topics, then the graph is built. For millions of prompts; a build that was
//! killed resumes where it stopped.

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
use unprompt_corpus::report::Report;
use unprompt_index::{Profile, PromptIndex, PromptPoint};

use self::embedder::{EmbeddedChunk, Embedder};
use self::near::{Near, NearState};
use crate::blocking::blocking;
use crate::{CheckpointSettings, Chunk, ChunkEnd, JobError, ModelFolders, PROGRESS_TARGET};
use crate::{ResumableRun, RunSettings};

pub use graph::build_graph;

/// Prompts embedded together: enough of them for batches of equal length. They are the same ones in
/// every run, so that a run that resumes makes the very same vectors.
const CHUNK: usize = 4_096;
/// Chunks that the index writes at once.
const WRITING: usize = 2;
/// Between two attempts to write.
const RETRY_AFTER: Duration = Duration::from_secs(5);

const INDEX_BUILD: RunSettings =
    RunSettings { label: "indexing (bytes)", unit: "prompts", chunk: CHUNK, folder: "builds" };

/// The choices of an index build.
#[derive(Clone, Debug)]
pub struct IndexBuildSettings {
    /// The profile of a collection that is made.
    pub profile: Profile,
    /// Leaves out prompts whose MiniLM vector has at least this cosine to an earlier one's.
    pub near_duplicate: Option<f32>,
    /// Builds the graph at the end.
    pub graph: bool,
}

/// A build under way.
#[derive(Debug)]
pub struct IndexBuild {
    settings: IndexBuildSettings,
    index: PromptIndex,
    /// None while it embeds on its thread.
    embedder: Option<Embedder>,
    run: ResumableRun<NearState>,
    forgotten: Option<u64>,
}

/// The summary of an index build.
#[derive(Clone, Debug)]
pub struct IndexBuildSummary {
    pub indexed: u64,
    /// Indexed by earlier runs.
    pub indexed_before: u64,
    /// None where reading did not come to its end. Near duplicates count as dropped.
    pub report: Option<Report>,
}

/// A chunk that is durable in the index.
struct WrittenChunk {
    end: ChunkEnd,
    points: u64,
    near: NearState,
}

impl IndexBuild {
    /// Loads the networks, makes the collection if there is none, and opens the run after the
    /// prompts that an earlier one indexed.
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
        let run = ResumableRun::open(corpus, INDEX_BUILD, fingerprint, Some(checkpoints))?;
        let (index, embedder) = (index.clone(), Some(embedder));
        let mut build = Self { settings, index, embedder, run, forgotten: None };
        build.restart_if_points_are_lost().await?;
        Ok(build)
    }

    /// A collection that was dropped since is filled from the first prompt again.
    async fn restart_if_points_are_lost(&mut self) -> Result<(), JobError> {
        let written = self.run.resumed_at() - self.run.state().dropped();
        if written > 0 {
            let points = self.index.info().await?.points;
            if points < written {
                self.run.restart()?;
                self.forgotten = Some(points);
            }
        }
        Ok(())
    }

    /// Prompts that earlier runs worked through.
    pub fn resumed_at(&self) -> u64 {
        self.run.resumed_at()
    }

    /// The prompts that the collection holds, where they are fewer than an earlier run wrote and
    /// this run begins again.
    pub fn forgotten(&self) -> Option<u64> {
        self.forgotten
    }

    /// Indexes to the end of the corpus, and builds the graph if it is wanted.
    ///
    /// # Errors
    /// Those of [`ResumableRun::next`]; a network that fails; an index that refuses points. An
    /// index that is away, or whose disk is full, is waited for.
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

    /// The summary so far.
    pub fn summary(&self) -> IndexBuildSummary {
        let indexed = self.run.made();
        let indexed_by_all = self.run.acknowledged() - self.run.state().dropped();
        IndexBuildSummary { indexed, indexed_before: indexed_by_all - indexed, report: self.report() }
    }

    /// The reader's report, in which near duplicates count as kept, put right.
    fn report(&self) -> Option<Report> {
        let report = self.run.report()?.clone();
        Some(match &self.embedder {
            Some(embedder) => embedder.without_near_duplicates(report),
            None => report,
        })
    }

    /// Reads, embeds and writes side by side; chunks are acknowledged in the order of their rows.
    /// What is being written when reading ends, whatever ends it, is still acknowledged.
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

    /// Opens the search for near duplicates, where one is wanted, as far as the earlier run was.
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

    /// Starts to embed a chunk on a thread of its own.
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

    /// Writes a chunk.
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

    /// The file of the vectors that near duplicates are found by.
    fn vectors_file(&self) -> Option<PathBuf> {
        self.run.checkpoint_path().map(vectors_beside)
    }
}

/// The embedder and what it made, or that its thread ended too early.
type Embedding = Result<(Embedder, Result<EmbeddedChunk, JobError>), JobError>;

fn vectors_beside(checkpoint: &Path) -> PathBuf {
    checkpoint.with_extension("vectors")
}

/// The corpus' fingerprint with everything else that decides the points.
fn fingerprint(corpus: &Corpus, collection: &str, near_duplicate: Option<f32>) -> Fingerprint {
    let mut fingerprint = corpus.fingerprint();
    fingerprint.options = json!({
        "collection": collection, "near_duplicate": near_duplicate, "reading": fingerprint.options,
    });
    fingerprint
}

/// Writes points; an index that is away, or whose disk is full, is waited for until `stop`.
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
