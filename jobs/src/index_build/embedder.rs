//! Makes points of the collection from rows: both text vectors, near duplicates left out. It must
//! not know the index's wire.

use std::time::{SystemTime, UNIX_EPOCH};

use unprompt_corpus::report::{Reason, Report};
use unprompt_corpus::{Clean, Corpus};
use unprompt_index::{Layout, PromptPoint};
use unprompt_models::encoder::TextTower;
use unprompt_models::minilm::MiniLm;
use unprompt_schemas::identity::prompt_id;

use super::near::{Near, NearState};
use crate::{Chunk, ChunkEnd, JobError, ModelFolders};

/// Near duplicates that are shown as examples.
const EXAMPLES: usize = 3;

/// Both text towers, and the search for near duplicates where one is wanted.
#[derive(Debug)]
pub struct Embedder {
    minilm: MiniLm,
    clip: TextTower,
    /// When each input was last changed, milliseconds since 1970: the time of prompts that have
    /// none.
    input_times: Vec<i64>,
    near: Option<Near>,
    /// The first near duplicates of this run.
    examples: Vec<Clean>,
}

/// The points of a chunk, and the state once they are written.
#[derive(Debug)]
pub struct EmbeddedChunk {
    pub points: Vec<PromptPoint>,
    pub end: ChunkEnd,
    pub near: NearState,
}

impl Embedder {
    pub fn load(models: &ModelFolders, input_times: Vec<i64>) -> Result<Self, JobError> {
        let (minilm, clip) = (models.load_minilm()?, models.load_clip_text()?);
        Ok(Self { minilm, clip, input_times, near: None, examples: Vec::new() })
    }

    /// Leaves near duplicates out from now on.
    pub fn find_near_duplicates(&mut self, near: Near) {
        self.near = Some(near);
    }

    /// The collection that the vectors belong in.
    pub fn layout(&self) -> Layout {
        let (clip, minilm) = (&self.clip, &self.minilm);
        Layout::new(clip.revision().to_string(), clip.dims(), minilm.revision().to_string())
    }

    /// Embeds a chunk. The order of chunks decides which of two near duplicates is kept.
    pub fn embed(&mut self, chunk: Chunk) -> Result<EmbeddedChunk, JobError> {
        let Chunk { rows, end } = chunk;
        let minilm = self.minilm.embed(&texts(&rows))?;
        let (mut kept, mut vectors) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (clean, vector) in rows.into_iter().zip(minilm) {
            if !self.is_near_duplicate(&clean, &vector)? {
                kept.push(clean);
                vectors.push(vector);
            }
        }
        let clip = self.clip.embed(&texts(&kept))?;
        let rows = kept.into_iter().zip(vectors).zip(clip);
        let points = rows.map(|((clean, minilm), clip)| self.point(clean, minilm, clip)).collect();
        let near = self.near.as_mut().map(Near::synced).transpose()?.unwrap_or_default();
        Ok(EmbeddedChunk { points, end, near })
    }

    fn is_near_duplicate(&mut self, clean: &Clean, vector: &[f32]) -> Result<bool, JobError> {
        let Some(near) = &mut self.near else { return Ok(false) };
        let is_near = near.drops(clean.input, vector)?;
        if is_near && self.examples.len() < EXAMPLES {
            self.examples.push(clean.clone());
        }
        Ok(is_near)
    }

    fn point(&self, clean: Clean, minilm: Vec<f32>, clip: Vec<f32>) -> PromptPoint {
        let row = clean.row;
        let input_ms = self.input_times.get(clean.input).copied().unwrap_or_default();
        PromptPoint {
            prompt_id: prompt_id(&row.text),
            text: row.text,
            sources: vec![row.source],
            created_at_ms: row.created_at_ms.unwrap_or(input_ms),
            attributes: row.attributes,
            minilm,
            clip,
        }
    }

    /// The reader's report, with near duplicates as dropped: those of earlier runs too.
    pub fn without_near_duplicates(&self, mut report: Report) -> Report {
        let mut dropped = self.near.as_ref().map(|near| near.dropped().to_vec()).unwrap_or_default();
        for clean in &self.examples {
            dropped[clean.input] -= 1;
            report.drop_kept(Reason::NearDuplicate, (clean.input, clean.number), &clean.row.text);
        }
        for (input, count) in dropped.into_iter().enumerate() {
            report.drop_many(Reason::NearDuplicate, input, count);
        }
        report
    }
}

/// When each input was last changed, milliseconds since 1970; now, where nobody says.
pub fn input_times(corpus: &Corpus) -> Vec<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    corpus.inputs().iter().map(|input| input.modified_ms.unwrap_or(now)).collect()
}

fn texts(rows: &[Clean]) -> Vec<&str> {
    rows.iter().map(|clean| clean.row.text.as_str()).collect()
}
