//! The indexer: consumes prompt embeddings and writes points of the prompt collection.
//!
//! An offset is committed only after the index has acknowledged; it must not know any neural
//! network.

mod settings;

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use unprompt_index::{Code, Endpoint, IndexError, Layout, MINILM_DIM, PromptIndex, PromptPoint, Version};
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::names;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{NamedVector, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_stream::waiting::until_opened;
use unprompt_stream::{
    BatchError, InputRecord, Needs, Outcome, Parsed, ParsedBatch, Refusal, Rejection, Service, Stage,
    StageWiring, now_ms,
};

pub use settings::IndexSection;

/// The service descriptor: its name, topics and needs.
pub const SERVICE: Service = Service {
    needs: Needs { index: true, heads: false, schema: None },
    ..Service::new("indexer", &[Topic::PromptEmbeddings], &[])
};

/// The default configuration, as TOML with comments for users.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Opens the stage, waiting for an index that is temporarily unavailable.
///
/// # Errors
/// A collection of another layout, or an index that refuses.
pub fn build(layout: &Layout, index: &Endpoint, wiring: &StageWiring) -> Result<Indexer, IndexError> {
    let StageWiring { codec, runtime, stop } = wiring;
    until_opened(SERVICE.name, "the index", runtime, stop, IndexError::is_transient, || {
        let index = runtime.block_on(index.connect())?;
        Indexer::open(index, layout.clone(), codec.clone(), runtime.clone())
    })
}

/// The time for which a deletion is remembered. An older prompt that comes after that is indexed
/// again.
const DELETIONS_KEPT: Duration = Duration::from_hours(30 * 24);
/// The interval at which older deletions are forgotten.
const FORGETTING: Duration = Duration::from_hours(1);
/// The time of a prompt may be ahead of the time at which its embedding was written by this much.
/// The latter counts instead of a time further ahead, which would be the latest for ever.
const AHEAD: Duration = Duration::from_hours(1);
/// An embedding may be ahead of this machine's clock, which may be wrong itself, by this much.
const CLOCK_SLACK: Duration = Duration::from_hours(48);

/// Writes prompts into the collection of one encoder revision. Of a prompt's publication and its
/// deletion, the later one wins ([`Version::supersedes`]).
#[derive(Debug)]
pub struct Indexer {
    index: PromptIndex,
    layout: Layout,
    codec: Codec,
    runtime: Handle,
    /// When older deletions were last forgotten, or that failed.
    forgotten: Option<Instant>,
}

/// The change to the index that a record requests.
enum Change {
    Upsert(PromptPoint),
    Delete(Uuid, Version),
}

impl Indexer {
    /// Ensures that the collection of `layout` exists behind the alias, and creates an indexer for
    /// it.
    pub fn open(
        index: PromptIndex,
        layout: Layout,
        codec: Codec,
        runtime: Handle,
    ) -> Result<Self, IndexError> {
        runtime.block_on(index.ensure(&layout))?;
        Ok(Self { index, layout, codec, runtime, forgotten: None })
    }

    fn parse(&self, record: &InputRecord) -> Result<Parsed<Change>, Refusal> {
        let Some(value) = record.value.as_deref() else {
            return deleted(record).map(|id| Parsed::Input(Change::Delete(id, version_of(record))));
        };
        let embedding: PromptEmbedding = self.codec.decode(value)?;
        embedding.check_limits()?;
        self.check(&embedding)?;
        Ok(Parsed::Input(Change::Upsert(point(embedding, version_of(record)))))
    }

    /// Refuses vectors of another model, which must never be compared with this collection's.
    fn check(&self, embedding: &PromptEmbedding) -> Result<(), Refusal> {
        let layout = &self.layout;
        check_vector("clip", &embedding.clip, &layout.encoder, layout.clip_dim)?;
        check_vector("minilm", &embedding.minilm, &layout.minilm, MINILM_DIM)
    }

    /// Writes the changes. A collection that was dropped while the service runs is recreated; the
    /// batch is then retried.
    async fn write_or_ensure(&self, changes: &[Change]) -> Result<Vec<Result<(), Rejection>>, BatchError> {
        let written = self.write_each(changes).await;
        if let Err(BatchError::Fatal(_)) = &written
            && self.index.info().await.is_err_and(|error| matches!(error, IndexError::NoCollection { .. }))
        {
            let ensured = self.index.ensure(&self.layout).await.map_err(as_batch_error)?;
            let reason = format!("the collection was dropped; {} was recreated", ensured.collection);
            return Err(BatchError::Transient(reason));
        }
        written
    }

    /// Writes the changes. If the index refuses a point, the changes are written one by one, in
    /// order, and only that point's record is rejected.
    async fn write_each(&self, changes: &[Change]) -> Result<Vec<Result<(), Rejection>>, BatchError> {
        match self.write(changes).await {
            Ok(()) => return Ok(changes.iter().map(|_| Ok(())).collect()),
            Err(error) if !is_refused(&error) => return Err(as_batch_error(error)),
            Err(_) => {}
        }
        let mut written = Vec::with_capacity(changes.len());
        for change in changes {
            written.push(match self.write(std::slice::from_ref(change)).await {
                Err(error) if is_refused(&error) => Err(Rejection::new("index-refused", error.to_string())),
                Err(error) => return Err(as_batch_error(error)),
                Ok(()) => Ok(()),
            });
        }
        Ok(written)
    }

    /// Writes runs of upserts and of deletes in record order, so that a prompt deleted and
    /// published again is present.
    async fn write(&self, changes: &[Change]) -> Result<(), IndexError> {
        for run in changes.chunk_by(|a, b| a.upsert().is_some() == b.upsert().is_some()) {
            let upserts: Vec<PromptPoint> = run.iter().filter_map(Change::upsert).cloned().collect();
            let deletes: Vec<(Uuid, Version)> = run.iter().filter_map(Change::delete).collect();
            if !upserts.is_empty() {
                self.upsert(upserts).await?;
            }
            if !deletes.is_empty() {
                self.index.delete_as_of(&deletes).await?;
            }
        }
        Ok(())
    }

    async fn upsert(&self, points: Vec<PromptPoint>) -> Result<(), IndexError> {
        let left_out = self.index.upsert_unless_deleted(points).await?;
        if left_out > 0 {
            metrics::counter!("unprompt_deleted_prompts_total").increment(left_out as u64);
            tracing::info!(prompts = left_out, "left out prompts that were deleted later");
        }
        Ok(())
    }

    /// Forgets old deletions now and then.
    fn forget_deletions(&mut self) {
        if self.forgotten.is_some_and(|last| last.elapsed() < FORGETTING) {
            return;
        }
        self.forgotten = Some(Instant::now());
        let before = now_ms().saturating_sub_unsigned(millis(DELETIONS_KEPT));
        if let Err(error) = self.runtime.block_on(self.index.forget_deletions(before)) {
            tracing::warn!(
                %error,
                "records of deletions older than 30 days were not removed; retrying in an hour"
            );
        }
    }
}

impl Change {
    fn upsert(&self) -> Option<&PromptPoint> {
        match self {
            Self::Upsert(point) => Some(point),
            Self::Delete(..) => None,
        }
    }

    fn delete(&self) -> Option<(Uuid, Version)> {
        match self {
            Self::Upsert(_) => None,
            Self::Delete(id, version) => Some((*id, *version)),
        }
    }
}

fn check_vector(name: &str, vector: &NamedVector, wanted: &str, dims: usize) -> Result<(), Refusal> {
    let model = &vector.model;
    if model != wanted {
        let reason = format!(
            "the {name} vector is of {model}, the collection of {wanted}; run the text-encoder with {wanted}"
        );
        return Err(Refusal::record("other-model", reason));
    }
    // The index refuses a faulty vector too, but then the whole batch fails.
    vector.check(dims).map_err(|fault| Refusal::record(fault.code(), format!("the {name} vector {fault}")))
}

fn deleted(record: &InputRecord) -> Result<Uuid, Refusal> {
    record.key_as_uuid().ok_or_else(|| {
        Refusal::record("delete-without-id", "a null value needs the prompt_id (a UUID) as the key")
    })
}

/// When and where the prompt was published or deleted.
fn version_of(record: &InputRecord) -> Version {
    let after = |time: i64, duration: Duration| time.saturating_add_unsigned(millis(duration));
    let written = record.timestamp_ms.min(after(now_ms(), CLOCK_SLACK));
    let source = record.source_time_ms().filter(|time| *time <= after(written, AHEAD));
    let header = record.headers.iter().rev().find(|(name, _)| name == names::SOURCE_PARTITION);
    let partition = header.and_then(|(_, value)| str::from_utf8(value).ok()?.parse().ok());
    Version { at_ms: source.unwrap_or(written), partition }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn point(embedding: PromptEmbedding, version: Version) -> PromptPoint {
    PromptPoint {
        prompt_id: embedding.prompt_id,
        text: embedding.text,
        sources: vec![embedding.source],
        created_at_ms: embedding.created_at_ms,
        version: Some(version),
        attributes: embedding.attributes,
        minilm: embedding.minilm.values,
        clip: embedding.clip.values,
    }
}

impl Stage for Indexer {
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let parsed = ParsedBatch::parse(batch, |record| self.parse(record))?;
        let written = self.runtime.block_on(self.write_or_ensure(parsed.inputs()))?;
        self.forget_deletions();
        parsed.outcomes(written, |_, _, written| written.map(|()| Vec::new()).map_err(Refusal::from))
    }
}

/// The record is to blame if the index refuses its point while it accepts others.
fn is_refused(error: &IndexError) -> bool {
    matches!(error, IndexError::InvalidPoint { .. })
        || matches!(error, IndexError::Server { code: Code::InvalidArgument, .. })
}

fn as_batch_error(error: IndexError) -> BatchError {
    if error.is_transient() {
        BatchError::Transient(error.to_string())
    } else {
        BatchError::Fatal(error.to_string())
    }
}
