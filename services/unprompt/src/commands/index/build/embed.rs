//! The thread that embeds: chunks of rows in, points of the collection out, near duplicates left out. It knows nothing of the index's
//! wire and of files.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use unprompt_corpus::near::NearDuplicates;
use unprompt_corpus::report::{Reason, Report};
use unprompt_corpus::{Clean, CorpusError};
use unprompt_index::{Layout, PromptPoint};
use unprompt_models::encoder::TextTower;
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_schemas::identity::prompt_id;

use crate::commands::prompts::corpus::Read;
use crate::context::ModelFolders;

/// Chunks that are embedded ahead of those being written.
const AHEAD: usize = 1;

/// Both text towers.
#[derive(Debug)]
pub struct Embedder {
    minilm: MiniLm,
    clip: TextTower,
}

/// What comes out.
#[derive(Debug)]
pub enum Embedded {
    Chunk { points: Vec<PromptPoint>, mark: Mark },
    End { report: Report, fault: Option<anyhow::Error> },
}

/// Where a run is once a chunk is written.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// Kept rows up to here.
    pub rows: u64,
    /// Points of the chunk.
    pub points: u64,
    /// Bytes of the inputs.
    pub bytes: u64,
    pub near: NearState,
}

/// How far the search for near duplicates is: what a later run needs to decide the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearState {
    /// Vectors kept in the file.
    pub vectors: u64,
    /// Rows dropped, by input.
    pub dropped: Vec<u64>,
}

impl NearState {
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    fn drop_one(&mut self, input: usize) {
        if self.dropped.len() <= input {
            self.dropped.resize(input + 1, 0);
        }
        self.dropped[input] += 1;
    }
}

/// The search for near duplicates and where it is.
#[derive(Debug)]
pub struct Near {
    pub search: NearDuplicates,
    pub state: NearState,
}

impl Near {
    /// Goes on in the file as the state says; without one the vectors are kept in memory, and nothing is gone on with.
    pub fn open(threshold: f32, file: Option<&Path>, state: NearState) -> Result<Self, CorpusError> {
        let search = match file {
            Some(file) => NearDuplicates::in_file(threshold, MiniLm::DIMS, file, state.vectors)?,
            None => NearDuplicates::new(threshold, MiniLm::DIMS)?,
        };
        Ok(Self { search, state })
    }
}

impl Embedder {
    pub fn load(models: &ModelFolders, engine: Engine) -> anyhow::Result<Self> {
        Ok(Self {
            minilm: MiniLm::load(&models.minilm, engine)?,
            clip: TextTower::load(&models.clip, engine)?,
        })
    }

    /// The collection that these vectors belong in.
    pub fn layout(&self) -> Layout {
        let (clip, minilm) = (&self.clip, &self.minilm);
        Layout::new(clip.revision().to_string(), clip.dims(), minilm.revision().to_string())
    }

    /// Embeds on a thread of its own; it ends when nobody listens any more.
    pub fn start(
        self,
        mut rows: mpsc::Receiver<Read>,
        near: Option<Near>,
        found_ms: Vec<i64>,
    ) -> mpsc::Receiver<Embedded> {
        let (send, embedded) = mpsc::channel(AHEAD);
        let mut work = Work { towers: self, near, found_ms, shown: Vec::new() };
        tokio::task::spawn_blocking(move || {
            while let Some(read) = rows.blocking_recv() {
                let embedded = match read {
                    Read::Chunk { rows, bytes } => work.chunk(rows, bytes),
                    Read::End { report, fault } => Ok(work.ended(report, fault)),
                };
                let failed = |fault| Embedded::End { report: Report::default(), fault: Some(fault) };
                if send.blocking_send(embedded.unwrap_or_else(failed)).is_err() {
                    return;
                }
            }
        });
        embedded
    }
}

/// What the thread works with.
struct Work {
    towers: Embedder,
    near: Option<Near>,
    /// When each input was last changed: the time of prompts that have none.
    found_ms: Vec<i64>,
    /// The first near duplicates of this run.
    shown: Vec<Clean>,
}

impl Work {
    fn chunk(&mut self, rows: Vec<Clean>, bytes: u64) -> anyhow::Result<Embedded> {
        let end = rows.last().map_or(0, |clean| clean.seq + 1);
        let minilm = self.towers.minilm.embed(&texts(&rows))?;
        let (mut kept, mut vectors) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (clean, vector) in rows.into_iter().zip(minilm) {
            if self.is_near_duplicate(&clean, &vector)? {
                continue;
            }
            kept.push(clean);
            vectors.push(vector);
        }
        let clip = self.towers.clip.embed(&texts(&kept))?;
        let rows = kept.into_iter().zip(vectors).zip(clip);
        let points: Vec<_> = rows.map(|((clean, minilm), clip)| self.point(clean, minilm, clip)).collect();
        let mark = Mark { rows: end, points: points.len() as u64, bytes, near: self.settled()? };
        Ok(Embedded::Chunk { points, mark })
    }

    fn is_near_duplicate(&mut self, clean: &Clean, vector: &[f32]) -> anyhow::Result<bool> {
        let Some(near) = self.near.as_mut() else { return Ok(false) };
        if near.search.check(vector)?.is_none() {
            return Ok(false);
        }
        near.state.drop_one(clean.input);
        if self.shown.len() < SHOWN {
            self.shown.push(clean.clone());
        }
        Ok(true)
    }

    /// The state of the search, once its vectors are on the disk.
    fn settled(&mut self) -> anyhow::Result<NearState> {
        let Some(near) = self.near.as_mut() else { return Ok(NearState::default()) };
        near.search.sync()?;
        near.state.vectors = near.search.kept();
        Ok(near.state.clone())
    }

    fn point(&self, clean: Clean, minilm: Vec<f32>, clip: Vec<f32>) -> PromptPoint {
        let row = clean.row;
        let found_ms = self.found_ms.get(clean.input).copied().unwrap_or_default();
        PromptPoint {
            prompt_id: prompt_id(&row.text),
            text: row.text,
            sources: vec![row.source],
            created_at_ms: row.created_at_ms.unwrap_or(found_ms),
            attributes: row.attributes,
            minilm,
            clip,
        }
    }

    /// The reader's report, in which near duplicates count as kept, put right: those of earlier runs too.
    fn ended(&self, mut report: Report, fault: Option<CorpusError>) -> Embedded {
        let mut dropped = self.near.as_ref().map(|near| near.state.dropped.clone()).unwrap_or_default();
        for clean in &self.shown {
            dropped[clean.input] -= 1;
            report.drop_kept(Reason::NearDuplicate, (clean.input, clean.number), &clean.row.text);
        }
        for (input, count) in dropped.into_iter().enumerate() {
            report.drop_many(Reason::NearDuplicate, input, count);
        }
        Embedded::End { report, fault: fault.map(anyhow::Error::new) }
    }
}

/// Near duplicates that are shown as examples.
const SHOWN: usize = 3;

fn texts(rows: &[Clean]) -> Vec<&str> {
    rows.iter().map(|clean| clean.row.text.as_str()).collect()
}
