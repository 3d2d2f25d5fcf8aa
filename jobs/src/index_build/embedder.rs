//! Converts rows to points of the collection: embeds them with both text towers and drops near
//! duplicates. It must not know the index's protocol.

use std::time::{SystemTime, UNIX_EPOCH};

use unprompt_corpus::report::{CorpusReport, Reason};
use unprompt_corpus::{Clean, Corpus};
use unprompt_index::{Layout, PromptPoint};
use unprompt_models::encoder::TextTower;
use unprompt_models::minilm::MiniLm;
use unprompt_schemas::identity::prompt_id;

use super::near::{Near, NearState};
use crate::{Chunk, ChunkEnd, JobError, ModelFolders};

/// The near duplicates shown as examples.
const EXAMPLES: usize = 3;

/// Both text towers, and the search for near duplicates if there is one.
#[derive(Debug)]
pub struct Embedder {
    minilm: MiniLm,
    clip: TextTower,
    /// The last change of each input in milliseconds since 1970, used for prompts without a time.
    input_times: Vec<i64>,
    near: Option<Near>,
    /// The first near duplicates of this run.
    examples: Vec<Clean>,
}

/// The points of a chunk, and the state after they are written.
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

    /// Enables dropping near duplicates.
    pub fn find_near_duplicates(&mut self, near: Near) {
        self.near = Some(near);
    }

    /// Returns the layout of the collection that the vectors belong in.
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
            version: None,
            attributes: row.attributes,
            minilm,
            clip,
        }
    }

    /// Returns the reader's report with near duplicates counted as dropped, including those of
    /// earlier runs.
    pub fn without_near_duplicates(&self, mut report: CorpusReport) -> CorpusReport {
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

/// Returns the last change of each input in milliseconds since 1970; the current time if it is
/// unknown.
pub fn input_times(corpus: &Corpus) -> Vec<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    corpus.inputs().iter().map(|input| input.modified_ms.unwrap_or(now)).collect()
}

fn texts(rows: &[Clean]) -> Vec<&str> {
    rows.iter().map(|clean| clean.row.text.as_str()).collect()
}
