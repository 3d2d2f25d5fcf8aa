//! An open collection: qdrant-edge's shard, its writer thread and its optimiser thread.
//!
//! Reads run on blocking threads, concurrently with both. Only the writer thread updates and
//! flushes, because edge's `flush` must not run while an update is being applied.

mod marks;
mod optimiser;
mod queue;
mod shape;
mod writer;

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use qdrant_client::qdrant::CollectionConfig;
use qdrant_edge::{EdgeConfig, EdgeShard, OperationResult, ShardInfo, UpdateOperation};
use tokio::sync::Semaphore;
use tonic::Status;

use self::optimiser::Optimiser;
pub(crate) use self::shape::Shape;
use self::writer::ShardWriter;
pub(crate) use self::writer::Written;
use crate::convert::config as convert;
use crate::faults::Faults;
use crate::synced_files::SyncedFiles;
use crate::{disk_space, status};

/// An open collection.
#[derive(Debug)]
pub(crate) struct Shard {
    name: String,
    config: RwLock<CollectionConfig>,
    shape: Shape,
    /// None once stopped.
    edge: RwLock<Option<Arc<EdgeShard>>>,
    /// Limits concurrent reads to what keeps the cores busy. Further reads wait without occupying a
    /// thread.
    reads: Semaphore,
    writer: ShardWriter,
    optimiser: Arc<Optimiser>,
}

/// The indexing progress of a collection.
#[derive(Debug, Clone)]
pub(crate) struct OptimisationProgress {
    pub info: ShardInfo,
    /// True if an optimisation is running or due.
    pub optimising: bool,
    /// The error of the last optimisation, if it failed.
    pub error: Option<String>,
}

impl Shard {
    /// Creates a collection in the folder `at`.
    pub fn create(name: &str, at: &Path, config: CollectionConfig, faults: &Faults) -> Result<Self, Status> {
        disk_space::check(at.parent().unwrap_or(at))?;
        let edge = EdgeShard::new(at, convert::to_edge(&config)?).map_err(status::of_edge)?;
        edge.flush().map_err(status::of_edge)?;
        marks::sync(&mut SyncedFiles::default(), at)
            .map_err(|error| Status::internal(format!("cannot sync {}: {error}", at.display())))?;
        Self::start(name, at, edge, config, faults)
    }

    /// Opens the collection in the folder `at` and replays its log. Edge stores its own
    /// configuration with its data; if `is_changed`, `config` replaces it.
    pub fn load(
        name: &str,
        at: &Path,
        config: CollectionConfig,
        is_changed: bool,
        faults: &Faults,
    ) -> Result<Self, Status> {
        let began = Instant::now();
        remove_unfinished(at);
        let changed = is_changed.then(|| convert::to_edge(&config)).transpose()?;
        let edge = open(name, at, changed)?;
        marks::sync_unmarked(&mut SyncedFiles::default(), at)
            .map_err(|error| Status::internal(format!("cannot sync {}: {error}", at.display())))?;
        guarded(|| edge.flush())?;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(collection = name, duration_ms = ms, "opened a collection");
        let shard = Self::start(name, at, edge, config, faults)?;
        if is_changed {
            shard.optimiser.ask();
        }
        Ok(shard)
    }

    fn start(
        name: &str,
        at: &Path,
        edge: EdgeShard,
        config: CollectionConfig,
        faults: &Faults,
    ) -> Result<Self, Status> {
        let edge = Arc::new(edge);
        let shape = Shape::of(&config);
        let failed =
            |error: std::io::Error| Status::resource_exhausted(format!("cannot start a thread: {error}"));
        let optimiser = Optimiser::start(name, &edge, shape.largest_dim(), faults).map_err(failed)?;
        let (written, optimised) = (Arc::clone(&edge), Arc::clone(&optimiser));
        let writer = ShardWriter::start(name, written, optimised, faults).map_err(failed)?;
        if let Some(flush) = writer.flusher() {
            optimiser.flush_with(flush, at);
        }
        let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
        Ok(Self {
            name: name.to_owned(),
            config: RwLock::new(config),
            shape,
            edge: RwLock::new(Some(edge)),
            reads: Semaphore::new(2 * cores),
            writer,
            optimiser,
        })
    }

    /// The collection's own name, even if a request used an alias.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn config(&self) -> CollectionConfig {
        self.config.read().clone()
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Refuses a configuration that edge does not support.
    pub fn check(config: &CollectionConfig) -> Result<(), Status> {
        convert::to_edge(config).map(|_| ())
    }

    /// Returns whether the change to `config` can be made while the collection is open.
    pub fn takes_over(&self, config: &CollectionConfig) -> bool {
        let own = self.config.read();
        own.params == config.params && own.quantization_config == config.quantization_config
    }

    /// Applies the parts of a configuration that can change while a collection is open. Segments
    /// converge to it as they are optimised.
    pub fn reconfigure(&self, config: &CollectionConfig) -> Result<(), Status> {
        let edge = self.edge()?;
        let hnsw = convert::hnsw_to_edge(config.hnsw_config.unwrap_or_default())?;
        edge.set_hnsw_config(hnsw).map_err(status::of_edge)?;
        let optimizers = convert::optimizers_to_edge(&config.optimizer_config.unwrap_or_default());
        edge.set_optimizers_config(optimizers).map_err(status::of_edge)?;
        *self.config.write() = config.clone();
        self.optimiser.ask();
        Ok(())
    }

    /// Runs a read on a blocking thread.
    pub async fn read<T, F>(&self, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&EdgeShard) -> OperationResult<T> + Send + 'static,
    {
        let edge = self.edge()?;
        let _permit = self.reads.acquire().await.map_err(|_| status::stopped())?;
        let answer = tokio::task::spawn_blocking(move || read(&edge)).await;
        let answer =
            answer.map_err(|error| Status::internal(format!("a read of the index failed: {error}")))?;
        answer.map_err(status::of_edge)
    }

    /// Applies operations in order. With `wait` it returns when they are durable, without it when
    /// they are queued.
    pub async fn write(&self, operations: Vec<UpdateOperation>, wait: bool) -> Result<Written, Status> {
        self.writer.write(operations, wait).await
    }

    /// Returns the indexing progress. Blocks briefly.
    pub fn progress(&self) -> Result<OptimisationProgress, Status> {
        let info = self.edge()?.info().map_err(status::of_edge)?;
        let (optimising, error) = self.optimiser.state(&info);
        Ok(OptimisationProgress { info, optimising, error })
    }

    /// Applies and flushes the accepted writes, ends both threads and closes the shard. Blocks.
    /// Returns false if an optimisation or a read is still running after `grace`; it then ends by
    /// itself.
    pub fn stop(&self, grace: Duration) -> bool {
        let end = Instant::now().checked_add(grace);
        self.writer.stop();
        self.optimiser.stop(end);
        let edge = self.edge.write().take();
        edge.is_none_or(|edge| release(edge, end, &self.name))
    }

    fn edge(&self) -> Result<Arc<EdgeShard>, Status> {
        self.edge.read().clone().ok_or_else(status::stopped)
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Opens the shard in the folder `at`, without a segment that a power cut left incomplete.
fn open(name: &str, at: &Path, changed: Option<EdgeConfig>) -> Result<EdgeShard, Status> {
    let error = match guarded(|| EdgeShard::load(at, changed.clone())) {
        Ok(edge) => return Ok(edge),
        Err(error) => error,
    };
    match marks::leave_out_unmarked(at) {
        Ok(true) => {
            tracing::warn!(collection = name, %error, "left out a segment that was never synced");
            guarded(|| EdgeShard::load(at, changed))
        }
        Ok(false) => Err(error),
        Err(failed) => {
            tracing::warn!(collection = name, error = %failed, "a damaged segment cannot be left out");
            Err(error)
        }
    }
}

/// Calls edge, and turns a panic into an error: edge panics for some damaged files.
fn guarded<T>(call: impl FnOnce() -> OperationResult<T>) -> Result<T, Status> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(status::of_edge),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref().copied());
            Err(Status::internal(text.unwrap_or("its files make no sense")))
        }
    }
}

/// The folder in which edge builds a segment before it moves it to the other segments.
const UNFINISHED: &str = "temp_segments";

/// Removes the unfinished segments of an interrupted optimisation, which edge leaves behind.
fn remove_unfinished(at: &Path) {
    match std::fs::remove_dir_all(at.join(UNFINISHED)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %at.display(), %error, "an unfinished segment takes space");
        }
        _ => {}
    }
}

/// Closes the shard when its last reader is done. Returns false if a reader is left at `end`.
fn release(mut edge: Arc<EdgeShard>, end: Option<Instant>, name: &str) -> bool {
    loop {
        match Arc::try_unwrap(edge) {
            Ok(edge) => {
                drop(edge);
                return true;
            }
            Err(_) if end.is_some_and(|end| Instant::now() >= end) => {
                tracing::warn!(
                    collection = name,
                    "closed while still in use; its folder is free once that ends"
                );
                return false;
            }
            Err(shared) => edge = shared,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
