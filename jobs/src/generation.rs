//! Generates pictures of many prompts, to images.v1, a folder or parquet files. A run that was
//! stopped or killed resumes at the next picture, with the same seeds.

mod folder;
mod parquet;
mod seeds;
mod sink;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use unprompt_corpus::checkpoint::Fingerprint;
use unprompt_corpus::report::CorpusReport;
use unprompt_corpus::{Clean, Corpus};
use unprompt_generator::{Generator, Picture};
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Prompt;

use crate::blocking::blocking;
use crate::{CheckpointSettings, Chunk, ChunkEnd, JobError, ResumableRun, RunSettings};
use sink::Sink;

pub use seeds::{Part, Seeds};
pub use sink::PictureTarget;

/// The prompts read at once.
const PROMPTS: usize = 16;
const GENERATION: RunSettings = RunSettings {
    label: "drawing (bytes of prompts)",
    unit: "pictures",
    chunk: PROMPTS,
    folder: "generations",
};

/// The choices of a generation.
#[derive(Clone, Debug)]
pub struct GenerationSettings {
    pub generator: unprompt_generator::Settings,
    pub seeds: Seeds,
    /// The part of the prompts to draw; absent for all of them.
    pub part: Option<Part>,
    pub target: PictureTarget,
}

/// The state that a later run of the same command resumes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GenerationState {
    /// The id that fresh seeds are derived from.
    run: Uuid,
    /// The pictures drawn by all runs.
    drawn: u64,
    /// The pictures already drawn for prompts that are not acknowledged yet.
    beyond: HashSet<Uuid>,
}

/// The state of a new run, with its own fresh seeds.
impl Default for GenerationState {
    fn default() -> Self {
        Self { run: Uuid::new_v4(), drawn: 0, beyond: HashSet::new() }
    }
}

/// A generation in progress.
#[derive(Debug)]
pub struct Generation {
    settings: GenerationSettings,
    /// None while it is in use on a drawing thread.
    generator: Option<Generator>,
    device: &'static str,
    sink: Sink,
    run: ResumableRun<GenerationState>,
    drawn_before: u64,
    failed: u64,
    took: Duration,
}

/// The summary of a generation, with the cost of a million pictures.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationSummary {
    pub drawn: u64,
    /// The pictures drawn by earlier runs.
    pub drawn_before: u64,
    pub pictures_failed: u64,
    pub pictures_per_s: f64,
    /// `processor` or `GPU`.
    pub device: &'static str,
    /// The days that one device takes for a million pictures; None if none was drawn.
    pub device_days_a_million: Option<f64>,
    /// The topic's name, or the folder of the pictures.
    pub place: String,
}

impl Generation {
    /// Loads the generator and opens the target. Resumes after the pictures of an earlier run.
    ///
    /// # Errors
    /// A model that cannot be loaded, a target that cannot be written, and those of
    /// [`ResumableRun::open`].
    pub async fn open(
        corpus: Corpus,
        codec: Codec,
        settings: GenerationSettings,
        checkpoints: &CheckpointSettings,
    ) -> Result<Self, JobError> {
        let of_generator = settings.generator.clone();
        let generator = blocking("loads the generator", move || Generator::open(&of_generator, codec));
        let generator = generator.await??;
        let fingerprint = fingerprint(&corpus, &settings, &generator)?;
        let mut run: ResumableRun<GenerationState> =
            ResumableRun::open(corpus, GENERATION, fingerprint, Some(checkpoints))?;
        let sink = Sink::open(&settings.target).await?;
        // Saved at once, so that a resumed run has the same fresh seeds, however early this run
        // ends.
        run.save()?;
        let (device, drawn_before) = (generator.device(), run.state().drawn);
        let generator = Some(generator);
        Ok(Self { settings, generator, device, sink, run, drawn_before, failed: 0, took: Duration::ZERO })
    }

    /// Returns the number of prompts whose pictures earlier runs drew.
    pub fn resumed_at(&self) -> u64 {
        self.run.resumed_at()
    }

    /// Draws the pictures of the rest of the corpus.
    ///
    /// # Errors
    /// Those of [`ResumableRun::next`], of a model that fails as a whole, and of a target that
    /// takes no more pictures.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<(), JobError> {
        let began = Instant::now();
        let drawn = self.draw_all(stop).await;
        self.took = began.elapsed();
        let done = drawn.and_then(|()| self.sink.finish());
        self.run.end(done)
    }

    /// Returns the report on the prompts; None until all are read.
    pub fn report(&self) -> Option<&CorpusReport> {
        self.run.report()
    }

    pub fn summary(&self) -> GenerationSummary {
        let drawn = self.run.made();
        let pictures_per_s = drawn as f64 / self.took.as_secs_f64().max(1e-9);
        GenerationSummary {
            drawn,
            drawn_before: self.drawn_before,
            pictures_failed: self.failed,
            pictures_per_s,
            device: self.device,
            device_days_a_million: (drawn > 0).then(|| 1e6 / pictures_per_s / 86_400.0),
            place: self.sink.to_string(),
        }
    }

    async fn draw_all(&mut self, stop: &CancellationToken) -> Result<(), JobError> {
        while let Some(Chunk { rows, end }) = self.run.next(stop).await? {
            self.draw_chunk(rows, end.bytes, stop).await?;
            self.run.acknowledge(end, 0, |state| state.beyond.clear())?;
        }
        Ok(())
    }

    /// Draws the missing pictures of some prompts in single passes of the network, so that a stop
    /// waits for at most one pass.
    async fn draw_chunk(
        &mut self,
        rows: Vec<Clean>,
        bytes: u64,
        stop: &CancellationToken,
    ) -> Result<(), JobError> {
        let missing: Vec<Prompt> = rows.into_iter().flat_map(|clean| self.missing(clean)).collect();
        for pass in missing.chunks(self.settings.generator.section.batch.max(1)) {
            if stop.is_cancelled() {
                return Err(self.run.stopped());
            }
            let pictures = self.draw(pass.to_vec()).await?;
            self.sink.write(&pictures).await?;
            self.sink.pack_if_full()?;
            let end = ChunkEnd { rows: self.run.acknowledged(), bytes };
            let count = pictures.len() as u64;
            self.run.acknowledge(end, count, |state| {
                state.drawn += count;
                state.beyond.extend(pictures.iter().map(|picture| picture.image_id));
            })?;
        }
        Ok(())
    }

    /// Returns the prompt once for each missing picture, so that a picture that cannot be drawn
    /// does not affect the others.
    fn missing(&self, clean: Clean) -> Vec<Prompt> {
        let row = clean.row;
        if self.settings.part.is_some_and(|part| !part.contains(&row.text)) {
            return Vec::new();
        }
        let seeds = self.settings.seeds.of(self.run.state().run, &row.text, &row.seeds);
        let prompt = |seed| Prompt {
            text: row.text.clone(),
            source: row.source.clone(),
            seeds: vec![seed],
            attributes: row.attributes.clone(),
        };
        seeds.into_iter().filter(|seed| !self.has_picture(&row.text, *seed)).map(prompt).collect()
    }

    fn has_picture(&self, text: &str, seed: i64) -> bool {
        let id = self.generator.as_ref().map(|generator| generator.image_id(text, seed));
        id.is_some_and(|id| self.run.state().beyond.contains(&id) || self.sink.has(id))
    }

    async fn draw(&mut self, prompts: Vec<Prompt>) -> Result<Vec<Picture>, JobError> {
        let generator = self.generator.take().ok_or(JobError::ThreadEnded { doing: "draws" })?;
        let drawing = blocking("draws", move || {
            let drawn = generator.draw(&prompts);
            (generator, prompts, drawn)
        });
        let (generator, prompts, drawn) = drawing.await?;
        self.generator = Some(generator);
        let mut pictures = Vec::new();
        for (prompt, drawn) in prompts.iter().zip(drawn?) {
            match drawn {
                Ok(drawn) => pictures.extend(drawn),
                Err(rejection) => {
                    self.failed += 1;
                    let seed = prompt.seeds.first();
                    tracing::warn!(prompt = prompt.text, seed, reason = rejection.reason, "not drawn");
                }
            }
        }
        Ok(pictures)
    }
}

/// Returns the corpus' fingerprint, extended by everything else that determines the pictures and
/// their target.
fn fingerprint(
    corpus: &Corpus,
    settings: &GenerationSettings,
    generator: &Generator,
) -> Result<Fingerprint, JobError> {
    let mut fingerprint = corpus.fingerprint();
    fingerprint.sources.push(format!("into {}", settings.target.place()?));
    if let Some(part) = settings.part {
        fingerprint.sources.push(format!("part {} of {}", part.number, part.of));
    }
    fingerprint.options["generate"] = json!({
        "model": generator.model(), "how": generator.identity(),
        "seeds": settings.seeds.count, "first_seed": settings.seeds.first,
        "parquet": settings.target.is_parquet(),
    });
    Ok(fingerprint)
}
