//! The text-encoder: prompts in, their MiniLM and CLIP text vectors out.
//!
//! It knows prompts.v1, prompt-embeddings.v1 and two model folders; it must not know the index.

use std::path::Path;

use unprompt_models::encoder::TextTower;
use unprompt_models::minilm::{Engine, MiniLm};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::{NamedVector, Prompt, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_schemas::{Uuid, cloudevents};
use unprompt_stream::{BatchError, InputRecord, Outcome, OutputRecord, Refusal, Rejection, Stage};

/// A vector a text.
type Vectors = Vec<Vec<f32>>;

/// Encodes prompts; see [`TextEncoder::load`].
#[derive(Debug)]
pub struct TextEncoder {
    minilm: MiniLm,
    clip: TextTower,
    codec: Codec,
}

/// What a record of prompts.v1 turned out to be.
enum Input {
    Prompt { id: Uuid, prompt: Prompt },
    Delete { id: Uuid },
}

impl TextEncoder {
    /// Loads both towers from their folders: sentence-transformers' layout for MiniLM, transformers' for CLIP.
    pub fn load(
        minilm: &Path,
        clip: &Path,
        engine: Engine,
        codec: Codec,
    ) -> Result<Self, unprompt_models::ModelError> {
        Ok(Self { minilm: MiniLm::load(minilm, engine)?, clip: TextTower::load(clip, engine)?, codec })
    }

    fn parse(&self, record: &InputRecord) -> Result<Input, Refusal> {
        let Some(value) = record.value.as_deref() else {
            return Ok(Input::Delete { id: key_as_id(record)? });
        };
        let prompt = Prompt::from_record(value, &self.codec)?;
        Ok(Input::Prompt { id: prompt_id(&prompt.text), prompt })
    }

    /// Both vectors of every prompt in the batch, in order. A network that fails once fails again, so that is fatal.
    fn embed(&mut self, texts: &[&str]) -> Result<(Vectors, Vectors), BatchError> {
        let minilm = self.minilm.embed(texts).map_err(|e| BatchError::Fatal(e.to_string()))?;
        let clip = self.clip.embed(texts).map_err(|e| BatchError::Fatal(e.to_string()))?;
        Ok((minilm, clip))
    }

    fn output(
        &self,
        record: &InputRecord,
        id: Uuid,
        prompt: Prompt,
        minilm: Vec<f32>,
        clip: Vec<f32>,
    ) -> Result<Vec<OutputRecord>, Refusal> {
        let embedding = PromptEmbedding {
            prompt_id: id,
            text: prompt.text,
            source: prompt.source,
            attributes: prompt.attributes,
            created_at_ms: record.timestamp_ms,
            minilm: NamedVector { model: self.minilm.revision().to_string(), values: minilm },
            clip: NamedVector { model: self.clip.revision().to_string(), values: clip },
        };
        let value = self.codec.encode(&record.topic_name_of(Topic::PromptEmbeddings), &embedding)?;
        Ok(vec![keyed(id, Some(value), record)])
    }
}

/// A delete names the prompt by its id, in the key.
fn key_as_id(record: &InputRecord) -> Result<Uuid, Refusal> {
    let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    key.and_then(|key| Uuid::parse_str(key).ok()).ok_or_else(|| {
        Refusal::record(
            "delete-without-id",
            "a null value deletes a prompt and needs its prompt_id (a UUID) as the key",
        )
    })
}

fn keyed(id: Uuid, value: Option<Vec<u8>>, record: &InputRecord) -> OutputRecord {
    OutputRecord {
        topic: Topic::PromptEmbeddings,
        key: Some(id.to_string().into_bytes()),
        value,
        headers: cloudevents::forwarded(&record.headers),
    }
}

impl Stage for TextEncoder {
    fn name(&self) -> &'static str {
        "text-encoder"
    }

    fn inputs(&self) -> &'static [Topic] {
        &[Topic::Prompts]
    }

    fn outputs(&self) -> &'static [Topic] {
        &[Topic::PromptEmbeddings]
    }

    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let parsed = Refusal::part(batch.iter().map(|record| self.parse(record)))?;
        let texts: Vec<&str> = parsed.iter().filter_map(text_of).collect();
        let (minilm, clip) = self.embed(&texts)?;
        let mut vectors = minilm.into_iter().zip(clip);
        let outcomes = parsed.into_iter().zip(batch).map(|(input, record)| match input {
            Err(rejection) => Ok(Outcome::Rejected(rejection)),
            Ok(Input::Delete { id }) => Ok(Outcome::Outputs(vec![keyed(id, None, record)])),
            Ok(Input::Prompt { id, prompt }) => {
                let (minilm, clip) = vectors
                    .next()
                    .ok_or_else(|| BatchError::Fatal("an engine returned too few vectors".into()))?;
                Refusal::outcome(self.output(record, id, prompt, minilm, clip))
            }
        });
        outcomes.collect()
    }
}

fn text_of(input: &Result<Input, Rejection>) -> Option<&str> {
    match input {
        Ok(Input::Prompt { prompt, .. }) => Some(&prompt.text),
        _ => None,
    }
}
