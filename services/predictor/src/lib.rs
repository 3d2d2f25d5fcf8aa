//! The predictor: image embeddings in, predictions out.
//!
//! Each prediction blends two parts: the weighted mean of the nearest prompts' MiniLM vectors, and the regression
//! head announced on heads.v1. It knows the index's endpoint and the head files; it must not know any picture.

mod heads;

use std::str::FromStr;

pub use heads::{HeadStore, RefusedHead};

use tokio::runtime::Handle;
use unprompt_index::{Hit, IndexError, PromptIndex, Query, Space};
use unprompt_models::blend::{blend, knn_vector};
use unprompt_models::calibration::Evidence;
use unprompt_schemas::cloudevents;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, Neighbour, Prediction};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, OutputRecord, Refusal, Rejection, Stage};

use crate::heads::LoadedHead;

/// The name of how the parts are made one, written into each prediction.
const BLEND_NAME: &str = "linear-after-normalising";

/// Predicts prompts; see [`Predictor::new`].
#[derive(Debug)]
pub struct Predictor {
    index: PromptIndex,
    /// The collection behind the alias, once it was seen to be of `encoder`.
    collection: Option<String>,
    heads: HeadStore,
    encoder: Encoder,
    settings: Settings,
    codec: Codec,
    runtime: Handle,
}

/// The encoder that is read, by the names of its two towers' vectors.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// `name@revision` of the pictures' vectors, with their side where it is not the network's own; others of a record are left alone.
    pub pictures: String,
    /// `name@revision` of the prompts' vectors in the index.
    pub prompts: String,
}

/// How the neighbours are found and how many of them a prediction shows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Neighbours that vote, 100 to 150 in the competition's recipe.
    pub k: usize,
    /// Neighbours written into the prediction, the first of the `k`.
    pub neighbours: usize,
    /// Where they are looked for.
    pub retrieval: Retrieval,
}

/// The space that is searched for neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retrieval {
    /// The image's vector among the prompts' CLIP text vectors.
    Clip,
    /// The head's output among the prompts' MiniLM vectors; CLIP's space until there is a head.
    MiniLm,
}

impl FromStr for Retrieval {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "clip" => Ok(Self::Clip),
            "minilm" => Ok(Self::MiniLm),
            other => Err(format!("[predictor] retrieval is {other:?}; choose clip or minilm")),
        }
    }
}

/// One image vector to predict from, and where it came from.
struct Input {
    embedding: ImageEmbedding,
    vector: Vec<f32>,
}

/// The parts of a prediction, each of unit norm, [384].
struct Parts {
    knn: Option<Vec<f32>>,
    head: Option<Vec<f32>>,
    blended: Vec<f32>,
    expected_cosine: Option<f32>,
}

impl Predictor {
    /// A predictor for the vectors of `encoder`, with whatever head `heads` holds at the time of each batch.
    pub fn new(
        index: PromptIndex,
        heads: HeadStore,
        encoder: Encoder,
        settings: Settings,
        codec: Codec,
        runtime: Handle,
    ) -> Self {
        Self { index, collection: None, heads, encoder, settings, codec, runtime }
    }

    /// Vectors of another encoder in the index would give neighbours that mean nothing.
    fn check_collection(&mut self) -> Result<(), BatchError> {
        if self.collection.is_some() {
            return Ok(());
        }
        let info = self.runtime.block_on(self.index.info()).map_err(as_batch_error)?;
        match info.encoder {
            Some(encoder) if encoder != self.encoder.prompts => Err(BatchError::Fatal(format!(
                "the index holds prompts of {encoder}, this predictor reads {}; configure the same [models] clip for both",
                self.encoder.prompts
            ))),
            _ => {
                self.collection = Some(info.collection);
                Ok(())
            }
        }
    }

    fn parse(&self, record: &InputRecord) -> Result<Input, Refusal> {
        let value = record.value.as_deref().ok_or_else(|| {
            Refusal::record("null-value", "an image embedding has no value; nothing can be predicted")
        })?;
        let mut embedding: ImageEmbedding = self.codec.decode(value)?;
        let found = embedding.vectors.iter().position(|vector| vector.model == self.encoder.pictures);
        let vector = found.map(|at| embedding.vectors.swap_remove(at).values).ok_or_else(|| {
            let reason = format!(
                "no vector of {} in the record; run the image-encoder with it",
                self.encoder.pictures
            );
            Refusal::record("no-vector-of-encoder", reason)
        })?;
        Ok(Input { embedding, vector })
    }

    /// The nearest prompts of every input, in order.
    fn retrieve(&self, inputs: &[&Input], head: Option<&LoadedHead>) -> Result<Vec<Vec<Hit>>, IndexError> {
        let queries: Vec<Query> = inputs.iter().map(|input| self.query(input, head)).collect();
        self.runtime.block_on(self.index.search_batch(&queries))
    }

    fn query(&self, input: &Input, head: Option<&LoadedHead>) -> Query {
        let from_head = match self.settings.retrieval {
            Retrieval::MiniLm => head.and_then(|head| head.predict(&input.vector).ok()),
            Retrieval::Clip => None,
        };
        let query = match from_head {
            Some(vector) => Query::new(Space::MiniLm, vector, self.settings.k),
            None => Query::new(Space::Clip, input.vector.clone(), self.settings.k),
        };
        query.with_vectors([Space::MiniLm])
    }

    fn predict(
        &self,
        input: &Input,
        hits: &[Hit],
        head: Option<&LoadedHead>,
    ) -> Result<(Parts, Vec<f32>), Rejection> {
        let neighbours: Vec<(f32, &[f32])> =
            hits.iter().filter_map(|hit| Some((hit.similarity, hit.minilm.as_deref()?))).collect();
        let (knn, weights) = match neighbours.is_empty() {
            true => (None, Vec::new()),
            false => {
                let (vector, weights) = knn_vector(&neighbours);
                (Some(vector), weights)
            }
        };
        let from_head = head.map(|head| head.predict(&input.vector)).transpose()?;
        let blended = match (&knn, &from_head, head) {
            (Some(knn), Some(vector), Some(head)) => blend(knn, vector, head.blend_weight()),
            (Some(knn), _, _) => knn.clone(),
            (None, Some(vector), _) => vector.clone(),
            (None, None, _) => {
                return Err(Rejection::new("nothing-to-predict-from", "no neighbour and no head"));
            }
        };
        let expected_cosine =
            head.zip(knn.as_ref()).zip(from_head.as_ref()).and_then(|((head, knn), vector)| {
                let similarities: Vec<f32> = hits.iter().map(|hit| hit.similarity).collect();
                head.expected_cosine(&Evidence::new(knn, vector, &similarities, &weights))
            });
        Ok((Parts { knn, head: from_head, blended, expected_cosine }, weights))
    }

    fn output(
        &self,
        record: &InputRecord,
        input: Input,
        hits: Vec<Hit>,
        head: Option<&LoadedHead>,
    ) -> Result<OutputRecord, Refusal> {
        let (parts, weights) = self.predict(&input, &hits, head)?;
        let embedding = input.embedding;
        let prediction = Prediction {
            image_id: embedding.image_id,
            source_key: embedding.source_key,
            source_topic: embedding.source_topic,
            source_partition: embedding.source_partition,
            source_offset: embedding.source_offset,
            vector: parts.blended,
            knn_vector: parts.knn,
            head_vector: parts.head,
            neighbours: shown(hits, weights, self.settings.neighbours),
            expected_cosine: parts.expected_cosine,
            encoder: self.encoder.pictures.clone(),
            head: head.map(|head| head.name().to_owned()),
            index: self.collection.clone().unwrap_or_default(),
            blend: BLEND_NAME.to_owned(),
            created_at_ms: embedding.created_at_ms,
        };
        let value = self.codec.encode(&record.topic_name_of(Topic::Predictions), &prediction);
        Ok(OutputRecord {
            topic: Topic::Predictions,
            key: Some(prediction.image_id.to_string().into_bytes()),
            value: Some(value?),
            headers: cloudevents::forwarded(&record.headers),
        })
    }
}

/// Pictures may come before the first prompt: they wait for it, uncommitted, rather than end as dead letters.
fn wait_for_prompts(hits: &[Vec<Hit>], head: Option<&LoadedHead>) -> Result<(), BatchError> {
    match head.is_none() && hits.iter().any(Vec::is_empty) {
        true => Err(BatchError::Transient(
            "the index has no prompt and no head is announced; import prompts (unprompt prompts import FILE)"
                .into(),
        )),
        false => Ok(()),
    }
}

fn shown(hits: Vec<Hit>, weights: Vec<f32>, count: usize) -> Vec<Neighbour> {
    let neighbours = hits.into_iter().zip(weights).take(count);
    neighbours
        .map(|(hit, weight)| Neighbour {
            prompt_id: hit.prompt_id,
            text: hit.text,
            similarity: hit.similarity,
            weight,
        })
        .collect()
}

impl Stage for Predictor {
    fn name(&self) -> &'static str {
        "predictor"
    }

    fn inputs(&self) -> &'static [Topic] {
        &[Topic::ImageEmbeddings]
    }

    fn outputs(&self) -> &'static [Topic] {
        &[Topic::Predictions]
    }

    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        self.check_collection()?;
        let parsed = Refusal::part(batch.iter().map(|record| self.parse(record)))?;
        let inputs: Vec<_> = parsed.iter().filter_map(|input| input.as_ref().ok()).collect();
        let head = self.heads.current();
        let hits = self.retrieve(&inputs, head.as_deref()).map_err(as_batch_error)?;
        wait_for_prompts(&hits, head.as_deref())?;
        let mut hits = hits.into_iter();
        let outcomes = parsed.into_iter().zip(batch).map(|(input, record)| {
            let output = input.map_err(Refusal::from).and_then(|input| {
                self.output(record, input, hits.next().unwrap_or_default(), head.as_deref())
            });
            Refusal::outcome(output.map(|output| vec![output]))
        });
        outcomes.collect()
    }
}

/// An index without its collection is one whose indexer has not started yet.
fn as_batch_error(error: IndexError) -> BatchError {
    if error.is_transient() || matches!(error, IndexError::NoCollection { .. }) {
        BatchError::Transient(error.to_string())
    } else {
        BatchError::Fatal(error.to_string())
    }
}
