//! Writing to the collection: merges with the known state, writes in chunks, and accepts only a
//! completed write as success.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use futures::{StreamExt, TryStreamExt, stream};
use qdrant_client::qdrant::{
    DeletePoints, PointsIdsList, PointsOperationResponse, PointsSelector, UpdateStatus, UpsertPoints,
    points_selector::PointsSelectorOneOf, with_payload_selector::SelectorOptions,
};
use uuid::Uuid;

use super::PromptIndex;
use super::parts::RequestParts;
use crate::chunks::chunks;
use crate::point::{Known, merge_repeats};
use crate::{IndexError, PromptPoint, payload};

/// Points per request of a bulk load: about 4 MB, well below the limit of a server.
const BULK_CHUNK: usize = 1000;
/// Bytes of the points of a request, about.
const CHUNK_BYTES: usize = 16 << 20;

impl PromptIndex {
    /// Writes prompts, merged with their known state: sources are united, and the earliest
    /// created_at and the later version stay. It does not look for deletions; see
    /// [`Self::upsert_unless_deleted`].
    ///
    /// On return, all of them are durable on the server. On an error some may be written; writing
    /// all of them again is harmless.
    ///
    /// # Errors
    /// [`IndexError::InvalidPoint`] before anything is written; [`IndexError::is_transient`] tells
    /// the transient errors.
    pub async fn upsert(&self, points: Vec<PromptPoint>) -> Result<(), IndexError> {
        points.iter().try_for_each(|point| point.check(self.layout.get()))?;
        let limits = (self.chunk_points(), CHUNK_BYTES);
        let chunks = chunks(merge_repeats(points), limits, PromptPoint::size_bytes);
        stream::iter(chunks.map(|chunk| self.upsert_chunk(chunk)))
            .buffer_unordered(self.options.parallel_chunks.max(1))
            .try_collect::<()>()
            .await
    }

    /// Deletes prompts, whenever they were written. It remembers nothing, and missing prompts are
    /// no error.
    pub(super) async fn delete(&self, ids: &[Uuid]) -> Result<(), IndexError> {
        for chunk in ids.chunks(self.options.chunk_points.max(1)) {
            let ids = chunk.iter().copied().map(payload::point_id).collect();
            let points = PointsSelectorOneOf::Points(PointsIdsList { ids });
            let request = DeletePoints {
                collection_name: self.target.to_string(),
                wait: Some(true),
                points: Some(PointsSelector { points_selector_one_of: Some(points) }),
                ..Default::default()
            };
            completed(self.client.delete_points(request).await.map_err(|e| self.error("delete points", e))?)?;
        }
        Ok(())
    }

    /// Writes prompts as [`Self::upsert`] does, except those whose state in the index already
    /// covers them. Returns the number of skipped prompts. An interrupted load resumes quickly with
    /// it.
    pub async fn upsert_missing(&self, points: Vec<PromptPoint>) -> Result<u64, IndexError> {
        let count = points.len();
        let missing = self.without_known(points).await?;
        let there = (count - missing.len()) as u64;
        self.upsert(missing).await?;
        Ok(there)
    }

    async fn without_known(&self, points: Vec<PromptPoint>) -> Result<Vec<PromptPoint>, IndexError> {
        let mut missing = Vec::new();
        let mut points = points.into_iter();
        loop {
            let chunk: Vec<_> = points.by_ref().take(self.chunk_points()).collect();
            if chunk.is_empty() {
                return Ok(missing);
            }
            let known = self.known(&chunk).await?;
            missing
                .extend(chunk.into_iter().filter(|p| !known.get(&p.prompt_id).is_some_and(|k| k.covers(p))));
        }
    }

    /// Points per request.
    fn chunk_points(&self) -> usize {
        let usual = self.options.chunk_points.max(1);
        if self.bulk.load(Ordering::Relaxed) { usual.max(BULK_CHUNK) } else { usual }
    }

    async fn upsert_chunk(&self, mut points: Vec<PromptPoint>) -> Result<(), IndexError> {
        let mut known = self.known(&points).await?;
        for point in &mut points {
            if let Some(known) = known.remove(&point.prompt_id) {
                point.absorb(known);
            }
        }
        let mut parts = RequestParts::of(&points);
        while let Some(part) = parts.next() {
            let request = UpsertPoints {
                collection_name: self.target.to_string(),
                wait: Some(true),
                points: part.iter().cloned().map(payload::to_point).collect(),
                ..Default::default()
            };
            match self.client.upsert_points(request).await {
                Ok(response) => completed(response)?,
                Err(error) => parts.halve(part, self.error("upsert points", error))?,
            }
        }
        Ok(())
    }

    async fn known(&self, points: &[PromptPoint]) -> Result<HashMap<Uuid, Known>, IndexError> {
        let fields = [
            payload::SOURCES,
            payload::CREATED_AT,
            payload::UPDATED_AT,
            payload::UPDATED_IN,
            payload::ATTRIBUTES,
            payload::LENGTH,
        ]
        .map(String::from);
        let ids: Vec<Uuid> = points.iter().map(|point| point.prompt_id).collect();
        let found = self.points(&ids, SelectorOptions::Include(fields.to_vec().into()).into(), &[]).await?;
        found.into_iter().map(payload::to_known).collect()
    }
}

pub(super) fn completed(response: PointsOperationResponse) -> Result<(), IndexError> {
    match response.result.map(|result| result.status()) {
        Some(UpdateStatus::Completed) => Ok(()),
        status => Err(IndexError::NotAcknowledged { status: format!("{status:?}") }),
    }
}
