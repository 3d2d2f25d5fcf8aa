//! Bulk loading of prompts: the graph is built once, after all of them are written.
//!
//! [`PromptIndex::begin_bulk`] and [`PromptIndex::finish_bulk`] may be called again at any time, by
//! any process: the collection itself records that a load is under way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use qdrant_client::qdrant::{OptimizersConfigDiff, QuantizationConfigDiff, UpdateCollection, Value};
use qdrant_client::qdrant::{VectorParamsDiff, VectorParamsDiffMap, VectorsConfigDiff, vectors_config_diff};
use tokio::time::{Instant, sleep};

use super::{IndexInfo, IndexState, PromptIndex};
use crate::layout::{INDEXING_THRESHOLD_KB, PROFILE};
use crate::{IndexError, Profile, Space};

/// The interval between polls of a collection that is being optimised.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The time that a collection must stay ready: a server may take a moment to report pending work.
const SETTLED: Duration = Duration::from_secs(2);

impl PromptIndex {
    /// Defers graph building until [`Self::finish_bulk`] and lets [`Self::upsert`] write in larger
    /// chunks.
    ///
    /// The deferral survives a restart of the server. Until then a search compares with every
    /// prompt: correct, but slow.
    ///
    /// # Errors
    /// [`IndexError::NoCollection`] if [`Self::ensure`] was never called.
    pub async fn begin_bulk(&self) -> Result<(), IndexError> {
        self.set_indexing_threshold(0).await?;
        self.bulk.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Builds the graph and waits for it, reporting to `progress` several times a second.
    ///
    /// Returns at once if there is nothing to do. It may be dropped and called again: the server
    /// keeps building in the meantime.
    ///
    /// # Errors
    /// [`IndexError::NotOptimised`] if the server gave up; everything written is kept and search
    /// finds it.
    pub async fn finish_bulk(&self, mut progress: impl FnMut(&IndexInfo)) -> Result<IndexInfo, IndexError> {
        self.set_indexing_threshold(INDEXING_THRESHOLD_KB).await?;
        self.bulk.store(false, Ordering::Relaxed);
        let mut settled: Option<Instant> = None;
        loop {
            let info = self.info().await?;
            progress(&info);
            if let (IndexState::Failed, _) | (_, Some(_)) = (info.state, &info.error) {
                let reason = info.error.unwrap_or_else(|| "it gives no reason".into());
                return Err(IndexError::NotOptimised { collection: info.collection, reason });
            }
            match info.state {
                IndexState::Ready if info.is_indexed() => return Ok(info),
                IndexState::Ready if settled.is_some_and(|since| since.elapsed() >= SETTLED) => {
                    return Ok(info);
                }
                IndexState::Ready => settled = settled.or_else(|| Some(Instant::now())),
                _ => settled = None,
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Changes the collection's profile. The server rewrites the segments; [`Self::finish_bulk`]
    /// waits for that.
    pub async fn change_profile(&self, profile: Profile) -> Result<(), IndexError> {
        let memory = Some(profile.originals().into());
        let vector =
            |space: Space| (space.name().to_owned(), VectorParamsDiff { memory, ..Default::default() });
        let map = [Space::Clip, Space::MiniLm].map(vector).into();
        let vectors = vectors_config_diff::Config::ParamsMap(VectorParamsDiffMap { map });
        let update = UpdateCollection {
            collection_name: self.collection().await?,
            hnsw_config: Some(profile.hnsw(profile.hnsw_m(), profile.hnsw_ef_construct())),
            quantization_config: Some(QuantizationConfigDiff {
                quantization: Some(profile.change_of_compression()),
            }),
            vectors_config: Some(VectorsConfigDiff { config: Some(vectors) }),
            metadata: [(PROFILE.to_owned(), Value::from(profile.name()))].into(),
            ..Default::default()
        };
        self.client.update_collection(update).await.map_err(|e| self.error("change the profile", e))?;
        Ok(())
    }

    async fn set_indexing_threshold(&self, kb: u64) -> Result<(), IndexError> {
        let update = UpdateCollection {
            collection_name: self.collection().await?,
            optimizers_config: Some(OptimizersConfigDiff {
                indexing_threshold: Some(kb),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.client.update_collection(update).await.map_err(|e| self.error("begin or end a bulk load", e))?;
        Ok(())
    }
}

impl IndexInfo {
    /// Returns whether too few vectors are outside the graph for the server to build one.
    fn is_indexed(&self) -> bool {
        let waiting = self.points.saturating_sub(self.indexed_vectors / 2);
        waiting * 4 * 384 / 1024 < INDEXING_THRESHOLD_KB
    }
}
