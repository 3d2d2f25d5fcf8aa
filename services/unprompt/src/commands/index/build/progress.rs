//! How far a build is: what is acknowledged, kept for a later run, and shown.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::sync::mpsc;
use unprompt_corpus::Corpus;
use unprompt_corpus::checkpoint::Checkpoint;
use unprompt_corpus::report::Report;
use unprompt_jobs::Progress;

use super::embed::{Mark, Near, NearState};
use crate::commands::prompts::corpus::{Read, read};

/// A build under way.
#[derive(Debug)]
pub struct Run {
    /// None once it is being read.
    corpus: Option<Corpus>,
    checkpoint: Option<Checkpoint>,
    mark: Mark,
    indexed: u64,
    progress: Option<Progress>,
    pub report: Option<Report>,
}

impl Run {
    pub fn of(mut corpus: Corpus, known: Option<(Checkpoint, u64)>) -> Self {
        let (checkpoint, resumed_at) = known.map_or((None, 0), |(checkpoint, at)| (Some(checkpoint), at));
        corpus.resume(resumed_at);
        let near = checkpoint.as_ref().and_then(Checkpoint::state).unwrap_or_default();
        let mark = Mark { rows: resumed_at, near, ..Mark::default() };
        Self { corpus: Some(corpus), checkpoint, mark, indexed: 0, progress: None, report: None }
    }

    /// The search for near duplicates, where one is wanted, as far as the earlier run was.
    pub fn near(&self, threshold: Option<f32>) -> anyhow::Result<Option<Near>> {
        let Some(threshold) = threshold else { return Ok(None) };
        let file = self.vectors_file();
        Ok(Some(Near::open(threshold, file.as_deref(), self.mark.near.clone())?))
    }

    fn vectors_file(&self) -> Option<PathBuf> {
        self.checkpoint.as_ref().map(|checkpoint| checkpoint.path().with_extension("vectors"))
    }

    /// When each input was last changed, milliseconds since 1970; now, where nobody says.
    pub fn found_ms(&self) -> Vec<i64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let inputs = self.corpus.as_ref().map(Corpus::inputs).unwrap_or_default();
        inputs.iter().map(|input| input.modified_ms.unwrap_or(now)).collect()
    }

    /// Begins to read, in chunks that end at multiples of `chunk` rows whatever run reads them.
    pub fn start_reading(&mut self, chunk: usize) -> anyhow::Result<mpsc::Receiver<Read>> {
        let corpus = self.corpus.take().context("the corpus is being read already")?;
        let progress = Progress::new("indexing (bytes)", corpus.bytes_total());
        self.progress = Some(if self.mark.rows == 0 { progress } else { progress.going_on() });
        Ok(read(corpus, chunk))
    }

    /// A chunk is durable in the index.
    pub fn acknowledged(&mut self, mark: Mark) -> anyhow::Result<()> {
        self.indexed += mark.points;
        if let Some(progress) = &self.progress {
            progress.set_made(mark.bytes, self.indexed, "prompts");
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.save_with(mark.rows, &mark.near)?;
        }
        self.mark = mark;
        Ok(())
    }

    /// Everything is read.
    pub fn ended(&mut self, report: Report) {
        self.report = Some(report);
    }

    /// Everything is written.
    pub fn written(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }

    /// The run is done: nothing is left to go on with.
    pub fn remove(&self) -> anyhow::Result<()> {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.remove()?;
        }
        if let Some(file) = self.vectors_file().filter(|file| file.exists()) {
            std::fs::remove_file(&file).with_context(|| format!("{} cannot be removed", file.display()))?;
        }
        Ok(())
    }

    /// Prompts that this run indexed.
    pub fn indexed(&self) -> u64 {
        self.indexed
    }

    /// Prompts that an earlier run indexed.
    pub fn before(&self) -> u64 {
        let NearState { dropped, .. } = &self.mark.near;
        let kept = self.mark.rows - dropped.iter().sum::<u64>();
        kept - self.indexed
    }

    pub fn stopped(&self) -> String {
        format!("stopped after {} prompts; {}", self.mark.rows, self.again())
    }

    pub fn so_far(&self) -> String {
        format!("{} prompts are indexed; {}", self.mark.rows, self.again())
    }

    /// What the next run does.
    pub fn again(&self) -> &'static str {
        match self.checkpoint {
            Some(_) => "give the same command again to go on after them",
            None => "standard input cannot be gone on with, but indexing all of it again is harmless",
        }
    }
}
