//! The indexer: prompt embeddings in, points of the prompt collection out.
//!
//! An offset is committed only after the index has acknowledged; it must not know any network.

use tokio::runtime::Handle;
use unprompt_index::{IndexError, Layout, MINILM_DIM, PromptIndex, PromptPoint};
use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{NamedVector, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, Refusal, Stage};

/// Writes prompts into the collection of one encoder revision.
#[derive(Debug)]
pub struct Indexer {
    index: PromptIndex,
    layout: Layout,
    codec: Codec,
    runtime: Handle,
}

/// What a record asks of the index.
enum Change {
    Upsert(PromptPoint),
    Delete(Uuid),
}

impl Indexer {
    /// Makes sure the collection of `layout` exists behind the alias, and writes to it from then on.
    pub fn open(
        index: PromptIndex,
        layout: Layout,
        codec: Codec,
        runtime: Handle,
    ) -> Result<Self, IndexError> {
        runtime.block_on(index.ensure(&layout))?;
        Ok(Self { index, layout, codec, runtime })
    }

    fn parse(&self, record: &InputRecord) -> Result<Change, Refusal> {
        let Some(value) = record.value.as_deref() else {
            return key_as_id(record).map(Change::Delete);
        };
        let embedding: PromptEmbedding = self.codec.decode(value)?;
        self.check(&embedding)?;
        Ok(Change::Upsert(point(embedding)))
    }

    /// A vector of another model must never be compared with this collection's.
    fn check(&self, embedding: &PromptEmbedding) -> Result<(), Refusal> {
        let layout = &self.layout;
        check_vector("clip", &embedding.clip, &layout.encoder, layout.clip_dim)?;
        check_vector("minilm", &embedding.minilm, &layout.minilm, MINILM_DIM)
    }

    /// Runs of upserts and of deletes in the order of their records: a prompt deleted and published again is there.
    fn write(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let mut upserts = Vec::new();
            while let Some(Change::Upsert(point)) =
                changes.next_if(|change| matches!(change, Change::Upsert(_)))
            {
                upserts.push(point);
            }
            let mut deletes = Vec::new();
            while let Some(Change::Delete(id)) = changes.next_if(|change| matches!(change, Change::Delete(_)))
            {
                deletes.push(id);
            }
            self.runtime.block_on(self.write_run(upserts, &deletes))?;
        }
        Ok(())
    }

    async fn write_run(&self, upserts: Vec<PromptPoint>, deletes: &[Uuid]) -> Result<(), IndexError> {
        if !upserts.is_empty() {
            self.index.upsert(upserts).await?;
        }
        if !deletes.is_empty() {
            self.index.delete(deletes).await?;
        }
        Ok(())
    }
}

fn check_vector(name: &str, vector: &NamedVector, wanted: &str, dim: usize) -> Result<(), Refusal> {
    let (model, len) = (&vector.model, vector.values.len());
    if model != wanted {
        let reason = format!(
            "the {name} vector is of {model}, the collection of {wanted}; run the text-encoder with {wanted}"
        );
        return Err(Refusal::record("other-model", reason));
    }
    if len != dim {
        return Err(Refusal::record(
            "dimension",
            format!("the {name} vector has {len} values, the collection {dim}"),
        ));
    }
    // The index refuses it too, but for the whole batch.
    if !vector.values.iter().all(|value| value.is_finite()) {
        return Err(Refusal::record(
            "not-finite",
            format!("the {name} vector holds a value that is not finite"),
        ));
    }
    Ok(())
}

fn key_as_id(record: &InputRecord) -> Result<Uuid, Refusal> {
    let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    key.and_then(|key| Uuid::parse_str(key).ok()).ok_or_else(|| {
        Refusal::record("delete-without-id", "a null value needs the prompt_id (a UUID) as the key")
    })
}

fn point(embedding: PromptEmbedding) -> PromptPoint {
    PromptPoint {
        prompt_id: embedding.prompt_id,
        text: embedding.text,
        sources: vec![embedding.source],
        created_at_ms: embedding.created_at_ms,
        attributes: embedding.attributes,
        minilm: embedding.minilm.values,
        clip: embedding.clip.values,
    }
}

impl Stage for Indexer {
    fn name(&self) -> &'static str {
        "indexer"
    }

    fn inputs(&self) -> &'static [Topic] {
        &[Topic::PromptEmbeddings]
    }

    fn outputs(&self) -> &'static [Topic] {
        &[]
    }

    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let mut changes = Vec::with_capacity(batch.len());
        let mut outcomes = Vec::with_capacity(batch.len());
        for parsed in Refusal::part(batch.iter().map(|record| self.parse(record)))? {
            outcomes.push(match parsed {
                Ok(change) => {
                    changes.push(change);
                    Outcome::Outputs(Vec::new())
                }
                Err(rejection) => Outcome::Rejected(rejection),
            });
        }
        self.write(changes).map_err(as_batch_error)?;
        Ok(outcomes)
    }
}

fn as_batch_error(error: IndexError) -> BatchError {
    if error.is_transient() {
        BatchError::Transient(error.to_string())
    } else {
        BatchError::Fatal(error.to_string())
    }
}
