//! Deletions by time: the later one of a write and a deletion of a prompt wins, whichever is
//! processed first.
//!
//! A prompt holds the time of its latest write. The time of a deletion is kept in a collection
//! beside the prompts, which is made with the first one and has no vectors.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use qdrant_client::qdrant::{
    Condition, CreateCollectionBuilder, DeletePoints, Filter, NamedVectors, PointStruct, PointsSelector,
    Range, RetrievedPoint, UpsertPoints, Value, VectorsConfigBuilder,
};
use uuid::Uuid;

use super::PromptIndex;
use super::write::completed;
use crate::{IndexError, PromptPoint, payload};

impl PromptIndex {
    /// Deletes prompts, each as of a time in milliseconds since 1970: a prompt that was written
    /// later stays. The times are remembered for [`Self::without_deleted`].
    ///
    /// On return, all of it is durable on the server. On an error some may be done; doing all of it
    /// again is harmless.
    ///
    /// # Errors
    /// [`IndexError::is_transient`] tells the transient errors.
    pub async fn delete_as_of(&self, deletions: &[(Uuid, i64)]) -> Result<(), IndexError> {
        let latest = latest(deletions);
        let ids: Vec<Uuid> = latest.keys().copied().collect();
        self.remember_deletions(&ids, &latest).await?;
        let written = self.times(&ids, payload::UPDATED_AT).await?;
        let is_older = |id: &Uuid| written.get(id).is_none_or(|written| *written <= latest[id]);
        self.delete(&ids.iter().copied().filter(is_older).collect::<Vec<_>>()).await
    }

    /// Returns the points that were not deleted after they were written, in order. Points without
    /// `updated_at_ms` are all returned.
    ///
    /// # Errors
    /// [`IndexError::is_transient`] tells the transient errors.
    pub async fn without_deleted(
        &self,
        mut points: Vec<PromptPoint>,
    ) -> Result<Vec<PromptPoint>, IndexError> {
        let ids: Vec<Uuid> =
            points.iter().filter(|point| point.updated_at_ms > 0).map(|point| point.prompt_id).collect();
        let deleted = self.deletions(&ids).await?;
        points.retain(|point| {
            point.updated_at_ms <= 0
                || deleted.get(&point.prompt_id).is_none_or(|deleted| *deleted <= point.updated_at_ms)
        });
        Ok(points)
    }

    /// Forgets the deletions that were remembered before a time in milliseconds since 1970, by this
    /// machine's clock.
    ///
    /// # Errors
    /// [`IndexError::is_transient`] tells the transient errors.
    pub async fn forget_deletions(&self, before_ms: i64) -> Result<(), IndexError> {
        let before = Range { lt: Some(before_ms as f64), ..Default::default() };
        let points =
            PointsSelectorOneOf::Filter(Filter::must([Condition::range(payload::REMEMBERED_AT, before)]));
        let request = DeletePoints {
            collection_name: self.deletions_name(),
            wait: Some(true),
            points: Some(PointsSelector { points_selector_one_of: Some(points) }),
            ..Default::default()
        };
        match self.client.delete_points(request).await.map_err(|e| self.error("delete points", e)) {
            Ok(response) => completed(response),
            Err(IndexError::NoCollection { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes the remembered deletions with their collection.
    pub(super) async fn drop_deletions(&self) -> Result<(), IndexError> {
        let dropped = self.client.delete_collection(self.deletions_name()).await;
        dropped.map_err(|e| self.error("delete the collection", e)).map(|_| ())
    }

    /// The collection of deletions. Its name has one part fewer than those of prompts.
    fn deletions_name(&self) -> String {
        format!("{}-deletions", self.options.alias)
    }

    /// The times of the remembered deletions of these prompts.
    async fn deletions(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, i64>, IndexError> {
        match self.collection_named(&self.deletions_name()).times(ids, payload::DELETED_AT).await {
            Err(IndexError::NoCollection { .. }) => Ok(HashMap::new()),
            times => times,
        }
    }

    /// Writes the deletions that are later than those that are there.
    async fn remember_deletions(&self, ids: &[Uuid], latest: &HashMap<Uuid, i64>) -> Result<(), IndexError> {
        let known = self.deletions(ids).await?;
        let later = |id: &&Uuid| known.get(*id).is_none_or(|known| *known < latest[*id]);
        let ids: Vec<Uuid> = ids.iter().filter(later).copied().collect();
        for chunk in ids.chunks(self.options.chunk_points.max(1)) {
            let points: Vec<PointStruct> = chunk.iter().map(|id| deletion(*id, latest[id])).collect();
            match self.write_deletions(points.clone()).await {
                Err(IndexError::NoCollection { .. }) => {
                    self.create_deletions().await?;
                    self.write_deletions(points).await?;
                }
                written => written?,
            }
        }
        Ok(())
    }

    async fn write_deletions(&self, points: Vec<PointStruct>) -> Result<(), IndexError> {
        let request = UpsertPoints {
            collection_name: self.deletions_name(),
            wait: Some(true),
            points,
            ..Default::default()
        };
        completed(self.client.upsert_points(request).await.map_err(|e| self.error("upsert points", e))?)
    }

    async fn create_deletions(&self) -> Result<(), IndexError> {
        let create = CreateCollectionBuilder::new(self.deletions_name())
            .vectors_config(VectorsConfigBuilder::default())
            .on_disk_payload(true);
        match self.client.create_collection(create).await {
            Ok(_) => Ok(()),
            Err(error) => match IndexError::from_client("create the collection", error) {
                error if error.is_existing_collection() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// The times in a field of these points, as far as they have it.
    async fn times(&self, ids: &[Uuid], field: &str) -> Result<HashMap<Uuid, i64>, IndexError> {
        let time = |point: RetrievedPoint| {
            let time = point.payload.get(field).and_then(Value::as_integer);
            Ok((payload::prompt_id(point.id)?, time.unwrap_or_default()))
        };
        let wanted = SelectorOptions::Include(vec![field.to_owned()].into());
        self.points(ids, wanted.into(), &[]).await?.into_iter().map(time).collect()
    }
}

fn deletion(id: Uuid, at_ms: i64) -> PointStruct {
    let mut payload = Payload::new();
    payload.insert(payload::DELETED_AT, at_ms);
    payload.insert(payload::REMEMBERED_AT, jiff::Timestamp::now().as_millisecond());
    PointStruct::new(payload::point_id(id), NamedVectors::default(), payload)
}

/// The latest time of each prompt.
fn latest(deletions: &[(Uuid, i64)]) -> HashMap<Uuid, i64> {
    let mut latest = HashMap::with_capacity(deletions.len());
    for (id, at_ms) in deletions {
        let known = latest.entry(*id).or_insert(*at_ms);
        *known = (*known).max(*at_ms);
    }
    latest
}
