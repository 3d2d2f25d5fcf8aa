//! The text-encoder: consumes prompts and produces their MiniLM and CLIP text vectors.
//!
//! It knows prompts.v1, prompt-embeddings.v1 and two model folders; it must not know the index.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unprompt_models::ModelError;
use unprompt_models::encoder::TextTower;
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_schemas::cloudevents::names;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::{NamedVector, Prompt, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_schemas::{Uuid, cloudevents, dead_letter};
use unprompt_stream::service::prepare_schema;
use unprompt_stream::{
    BatchError, InputRecord, Needs, Outcome, OutputRecord, Parsed, ParsedBatch, Refusal, Service, Stage,
    StageWiring,
};

/// The service descriptor: its name, topics and needs.
pub const SERVICE: Service = Service {
    needs: Needs { index: false, heads: false, schema: Some(prepare_schema::<PromptEmbedding>) },
    ..Service::new("text-encoder", &[Topic::Prompts], &[Topic::PromptEmbeddings])
};

/// The default configuration, as TOML with comments for users.
pub const DEFAULTS: &str = include_str!("default.toml");

/// The networks that encode prompts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// A folder in sentence-transformers' layout.
    pub minilm: PathBuf,
    /// The image encoder's folder, in transformers' or open_clip's layout.
    pub clip: PathBuf,
    /// The engine of both networks.
    pub engine: Engine,
}

/// Loads the stage.
///
/// # Errors
/// A folder that cannot be loaded.
pub fn build(settings: &Settings, wiring: &StageWiring) -> Result<TextEncoder, ModelError> {
    TextEncoder::load(&settings.minilm, &settings.clip, settings.engine, wiring.codec.clone())
}

/// Encodes prompts; see [`TextEncoder::load`].
#[derive(Debug)]
pub struct TextEncoder {
    minilm: MiniLm,
    clip: TextTower,
    codec: Codec,
}

/// The vectors of one prompt.
struct Vectors {
    minilm: Vec<f32>,
    clip: Vec<f32>,
}

impl TextEncoder {
    /// Loads both text networks from their folders: sentence-transformers' layout for MiniLM,
    /// transformers' or open_clip's for CLIP.
    pub fn load(minilm: &Path, clip: &Path, engine: Engine, codec: Codec) -> Result<Self, ModelError> {
        Ok(Self { minilm: MiniLm::load(minilm, engine)?, clip: TextTower::load(clip, engine)?, codec })
    }

    fn parse(&self, record: &InputRecord) -> Result<Parsed<Prompt>, Refusal> {
        match record.value.as_deref() {
            Some(value) => Ok(Parsed::Input(Prompt::from_record(value, &self.codec)?)),
            None => Ok(Parsed::Outputs(vec![keyed(deleted(record)?, None, record)])),
        }
    }

    /// Encodes every prompt with both networks, in order. A network that fails once fails again, so
    /// an error is fatal.
    fn embed(&mut self, prompts: &[Prompt]) -> Result<Vec<Vectors>, BatchError> {
        let texts: Vec<&str> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
        let minilm = self.minilm.embed(&texts).map_err(|e| BatchError::Fatal(e.to_string()))?;
        let clip = self.clip.embed(&texts).map_err(|e| BatchError::Fatal(e.to_string()))?;
        Ok(minilm.into_iter().zip(clip).map(|(minilm, clip)| Vectors { minilm, clip }).collect())
    }

    fn output(
        &self,
        record: &InputRecord,
        prompt: Prompt,
        vectors: Vectors,
    ) -> Result<Vec<OutputRecord>, Refusal> {
        let id = prompt_id(&prompt.text);
        let embedding = PromptEmbedding {
            prompt_id: id,
            text: prompt.text,
            source: prompt.source,
            attributes: prompt.attributes,
            created_at_ms: record.timestamp_ms,
            minilm: NamedVector { model: self.minilm.revision().to_string(), values: vectors.minilm },
            clip: NamedVector { model: self.clip.revision().to_string(), values: vectors.clip },
        };
        let value = self.codec.encode(&record.topic_name_of(Topic::PromptEmbeddings), &embedding)?;
        Ok(vec![keyed(id, Some(value), record)])
    }
}

/// The id of the deleted prompt, from the record's key.
fn deleted(record: &InputRecord) -> Result<Uuid, Refusal> {
    record.key_as_uuid().ok_or_else(|| {
        Refusal::record(
            "delete-without-id",
            "a null value deletes a prompt and needs its prompt_id (a UUID) as the key",
        )
    })
}

fn keyed(id: Uuid, value: Option<Vec<u8>>, record: &InputRecord) -> OutputRecord {
    let mut headers = cloudevents::forwarded(&record.headers);
    headers.retain(|(name, _)| name != names::SOURCE_PARTITION);
    // A dead letter that was published again is not at its place in the order of its partition.
    if !record.headers.iter().any(|(name, _)| name == dead_letter::names::TIMESTAMP) {
        headers.push((names::SOURCE_PARTITION.to_owned(), record.partition.to_string().into_bytes()));
    }
    OutputRecord { topic: Topic::PromptEmbeddings, key: Some(id.to_string().into_bytes()), value, headers }
}

/// The bytes of the records that are encoded before their outputs are published. A batch of usual
/// prompts has less. A batch of the longest ones would take a minute or more.
const SLICE_BYTES: usize = 2 << 20;

/// The first records, of at most [`SLICE_BYTES`] together, or one.
fn first_slice(batch: &[InputRecord]) -> &[InputRecord] {
    let mut bytes = 0;
    let fits = |record: &&InputRecord| {
        bytes += record.value.as_ref().map_or(0, Vec::len);
        bytes <= SLICE_BYTES
    };
    let count = batch.iter().take_while(fits).count().max(1).min(batch.len());
    &batch[..count]
}

impl Stage for TextEncoder {
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let parsed = ParsedBatch::parse(first_slice(batch), |record| self.parse(record))?;
        let vectors = self.embed(parsed.inputs())?;
        parsed.outcomes(vectors, |record, prompt, vectors| self.output(record, prompt, vectors))
    }
}
