//! Copies of the whole collection in a file, and their restoration. They use the same API as
//! everything else, so a snapshot of an embedded index can be restored on a Qdrant server and the
//! other way round.

use std::path::Path;

use tokio::task::spawn_blocking;

use super::PromptIndex;
use crate::snapshot_file::{SnapshotReader, SnapshotWriter};
use crate::{Filter, IndexError, Layout, Profile, Space};

pub use crate::snapshot_file::SnapshotInfo;

/// Prompts read and written at once.
const PAGE: u32 = 1000;

/// The result of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Prompts in the snapshot.
    pub points: u64,
    /// Prompts that the collection already had as they are in the snapshot.
    pub already_there: u64,
}

impl PromptIndex {
    /// Writes all prompts with their vectors to a file, which appears complete or not at all.
    ///
    /// `written` receives the number of prompts in the file so far. Prompts written to the
    /// collection in the meantime may or may not be included.
    ///
    /// # Errors
    /// [`IndexError::Snapshot`] if the file cannot be written, [`IndexError::NoCollection`].
    pub async fn snapshot(
        &self,
        path: &Path,
        mut written: impl FnMut(u64),
    ) -> Result<SnapshotInfo, IndexError> {
        let info = SnapshotInfo::new(&self.own_layout().await?);
        let mut writer = blocking({
            let path = path.to_owned();
            move || SnapshotWriter::create(&path, info)
        })
        .await?;
        let (mut from, mut count) = (None, 0);
        loop {
            let (points, next) =
                self.page(&Filter::default(), from, PAGE, &[Space::MiniLm, Space::Clip]).await?;
            count += points.len() as u64;
            writer = blocking(move || writer.write(&points).map(|()| writer)).await?;
            written(count);
            from = next;
            if from.is_none() {
                return blocking(move || writer.finish()).await;
            }
        }
    }

    /// Writes the prompts of a snapshot to the collection, which is created if needed, as a bulk
    /// load. [`Self::finish_bulk`] then builds the graph.
    ///
    /// Existing prompts are merged as in [`Self::upsert`]; those already as they are in the
    /// snapshot are skipped. After an error or a stop, another call therefore resumes where this
    /// one stopped. `restored` receives the number of prompts done and the total.
    ///
    /// # Errors
    /// [`IndexError::Snapshot`] for a damaged file, before anything is written;
    /// [`IndexError::OtherEncoder`] or [`IndexError::OtherShape`] if the collection belongs to
    /// other models.
    pub async fn restore(
        &self,
        path: &Path,
        profile: Option<Profile>,
        mut restored: impl FnMut(u64, u64),
    ) -> Result<Restored, IndexError> {
        let path = path.to_owned();
        let mut reader = blocking(move || SnapshotReader::open(&path)).await?;
        let (layout, points_in_all) = (reader.info().layout(), reader.info().points);
        let profile = profile.unwrap_or(layout.profile);
        self.ensure(&layout.profile(profile)).await?;
        self.begin_bulk().await?;
        let mut done = Restored { points: 0, already_there: 0 };
        loop {
            let (points, next) = blocking(move || Ok((reader.next().transpose()?, reader))).await?;
            reader = next;
            let Some(points) = points else { return Ok(done) };
            done.points += points.len() as u64;
            done.already_there += self.upsert_missing(points).await?;
            restored(done.points, points_in_all);
        }
    }

    /// The layout of the existing collection.
    async fn own_layout(&self) -> Result<Layout, IndexError> {
        let stats = self.stats().await?;
        let foreign = |detail: &str| IndexError::OtherShape {
            collection: stats.info.collection.clone(),
            detail: detail.to_owned(),
        };
        let dim = stats.vectors.iter().find(|(name, _)| name == Space::Clip.name()).map(|(_, dim)| *dim);
        let dim = dim
            .and_then(|dim| usize::try_from(dim).ok())
            .ok_or_else(|| foreign("it has no vector \"clip\""))?;
        let encoder = stats.info.encoder.clone().ok_or_else(|| foreign("it does not name its encoder"))?;
        let minilm =
            stats.info.minilm.clone().ok_or_else(|| foreign("it does not say which MiniLM it is of"))?;
        Ok(Layout::new(encoder, dim, minilm).profile(stats.info.profile))
    }
}

/// Runs file work outside the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let failed = |error: tokio::task::JoinError| IndexError::Client {
        operation: "read or write a snapshot",
        reason: error.to_string(),
    };
    spawn_blocking(work).await.map_err(failed)?
}
