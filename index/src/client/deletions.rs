//! Remembers deletions: the later one of a write and a deletion of a prompt wins, whichever is
//! processed first.
//!
//! A prompt holds the [`Version`] of its latest write. A collection beside the prompts holds those
//! of deletions; it has no vectors, and the first deletion creates it. A write merges the earlier
//! ones. A deletion from between them that comes late does not undo that.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions;
use qdrant_client::qdrant::{
    Condition, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DeletePoints, FieldType, Filter,
    NamedVectors, PointStruct, PointsSelector, Range, RetrievedPoint, UpsertPoints,
};
use tonic::Code;
use uuid::Uuid;

use super::PromptIndex;
use super::write::completed;
use crate::{IndexError, PromptPoint, Version, payload};

const WRITTEN: [&str; 2] = [payload::UPDATED_AT, payload::UPDATED_IN];
const DELETED: [&str; 2] = [payload::DELETED_AT, payload::DELETED_IN];

impl PromptIndex {
    /// Deletes prompts, except those that were written later, and remembers the deletions for
    /// [`Self::upsert_unless_deleted`].
    ///
    /// On return, all of it is durable on the server. On an error some may be done; doing all of it
    /// again is harmless.
    ///
    /// # Errors
    /// [`IndexError::is_transient`] tells the transient errors.
    pub async fn delete_as_of(&self, deletions: &[(Uuid, Version)]) -> Result<(), IndexError> {
        let latest = latest(deletions);
        let ids: Vec<Uuid> = latest.keys().copied().collect();
        self.remember_deletions(&ids, &latest).await?;
        let written = self.versions(&ids, WRITTEN).await?;
        let is_earlier = |id: &Uuid| written.get(id).is_none_or(|written| latest[id].supersedes(*written));
        self.delete(&ids.iter().copied().filter(is_earlier).collect::<Vec<_>>()).await
    }

    /// Writes prompts as [`Self::upsert`] does, except those that were deleted later. Returns the
    /// number of prompts that were left out. Prompts without a version are all written.
    ///
    /// # Errors
    /// Those of [`Self::upsert`].
    pub async fn upsert_unless_deleted(&self, mut points: Vec<PromptPoint>) -> Result<usize, IndexError> {
        let versions = |points: &[PromptPoint]| -> HashMap<Uuid, Version> {
            points.iter().filter_map(|point| Some((point.prompt_id, point.version?))).collect()
        };
        let (count, ids) = (points.len(), versions(&points).into_keys().collect::<Vec<_>>());
        let before = self.deletions(&ids).await?;
        points.retain(|point| match (point.version, before.get(&point.prompt_id)) {
            (Some(version), Some(deletion)) => version.supersedes(*deletion),
            _ => true,
        });
        let (left_out, written) = (count - points.len(), versions(&points));
        self.upsert(points).await?;
        // Another process may have taken over this one's partitions, and have deleted a prompt
        // meanwhile.
        let is_deleted = |(id, deletion): (Uuid, Version)| {
            let is_new = before.get(&id) != Some(&deletion);
            let is_later = written.get(&id).is_some_and(|written| deletion.at_ms > written.at_ms);
            (is_new && is_later).then_some(id)
        };
        let deleted: Vec<Uuid> = self.deletions(&ids).await?.into_iter().filter_map(is_deleted).collect();
        self.delete(&deleted).await?;
        Ok(left_out + deleted.len())
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

    /// The remembered deletions of these prompts.
    async fn deletions(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, Version>, IndexError> {
        match self.collection_named(&self.deletions_name()).versions(ids, DELETED).await {
            Err(IndexError::NoCollection { .. }) => Ok(HashMap::new()),
            versions => versions,
        }
    }

    /// Writes the deletions, except those that are earlier than the remembered ones. The same one
    /// is written again, so that it is remembered from now on.
    async fn remember_deletions(
        &self,
        ids: &[Uuid],
        latest: &HashMap<Uuid, Version>,
    ) -> Result<(), IndexError> {
        let known = self.deletions(ids).await?;
        let is_later = |id: &&Uuid| known.get(*id).is_none_or(|known| latest[*id].supersedes(*known));
        let ids: Vec<Uuid> = ids.iter().filter(is_later).copied().collect();
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

    /// Creates the collection, with the shards and replicas of the prompts'.
    async fn create_deletions(&self) -> Result<(), IndexError> {
        let name = self.deletions_name();
        let mut create = CreateCollectionBuilder::new(&name).on_disk_payload(true).build();
        if let Some(layout) = self.layout.get() {
            (create.shard_number, create.replication_factor) = (layout.shards, layout.replicas);
        }
        match self.client.create_collection(create).await {
            Ok(_) => {}
            Err(error) => match IndexError::from_client("create the collection of deletions", error) {
                error if error.is_existing_collection() => {}
                // No record is to blame.
                IndexError::Server { operation, code: Code::InvalidArgument, message } => {
                    return Err(IndexError::Client { operation, reason: message });
                }
                error => return Err(error),
            },
        }
        // A server in strict mode refuses a filter on a field without an index.
        let index = CreateFieldIndexCollectionBuilder::new(name, payload::REMEMBERED_AT, FieldType::Integer);
        let indexed = self.client.create_field_index(index.wait(true)).await;
        indexed.map_err(|e| self.error("index the payload", e)).map(|_| ())
    }

    /// The versions in these fields of the points, as far as they have one.
    async fn versions(
        &self,
        ids: &[Uuid],
        fields: [&'static str; 2],
    ) -> Result<HashMap<Uuid, Version>, IndexError> {
        let version = |point: RetrievedPoint| match payload::version(&point.payload, fields) {
            Some(version) => payload::prompt_id(point.id).map(|id| Some((id, version))),
            None => Ok(None),
        };
        let wanted = SelectorOptions::Include(fields.map(str::to_owned).to_vec().into());
        let points = self.points(ids, wanted.into(), &[]).await?;
        points.into_iter().filter_map(|point| version(point).transpose()).collect()
    }
}

fn deletion(id: Uuid, version: Version) -> PointStruct {
    let mut payload = Payload::new();
    payload::insert_version(&mut payload, version, DELETED);
    payload.insert(payload::REMEMBERED_AT, jiff::Timestamp::now().as_millisecond());
    PointStruct::new(payload::point_id(id), NamedVectors::default(), payload)
}

/// The latest deletion of each prompt.
fn latest(deletions: &[(Uuid, Version)]) -> HashMap<Uuid, Version> {
    let mut latest = HashMap::with_capacity(deletions.len());
    for (id, version) in deletions {
        let known = latest.entry(*id).or_insert(*version);
        if version.supersedes(*known) {
            *known = *version;
        }
    }
    latest
}
