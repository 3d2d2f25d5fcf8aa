//! The predictor: consumes image embeddings and produces predictions.
//!
//! Each prediction blends two parts: the weighted mean of the nearest prompts' MiniLM vectors, and
//! the regression head announced on heads.v1. It knows the index's endpoint and the head files; it
//! must not know any picture.

mod error;
mod follow;
mod heads;
mod settings;

use tokio::runtime::Handle;
use unprompt_index::{Endpoint, Hit, IndexError, PromptIndex, Query, Space};
use unprompt_models::ModelError;
use unprompt_models::recipe::{BLEND_NAME, Neighbour, Predicted, Recipe, SearchVector};
use unprompt_schemas::cloudevents;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{self, ImageEmbedding, Prediction};
use unprompt_schemas::topics::Topic;
use unprompt_stream::service::prepare_schema;
use unprompt_stream::waiting::until_opened;
use unprompt_stream::{
    BatchError, InputRecord, Needs, Outcome, OutputRecord, Parsed, ParsedBatch, Refusal, Rejection, Service,
    Stage, StageWiring,
};

use crate::heads::LoadedHead;

pub use error::PredictorError;
pub use follow::FollowedHeads;
pub use heads::{HeadStore, RefusedHead};
pub use settings::Settings;

/// The service descriptor: its name, topics and needs.
pub const SERVICE: Service = Service {
    needs: Needs { index: true, heads: true, schema: Some(prepare_schema::<Prediction>) },
    ..Service::new("predictor", &[Topic::ImageEmbeddings], &[Topic::Predictions])
};

/// The default configuration, as TOML with comments for users.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Opens the stage, waiting for an index that is temporarily unavailable.
///
/// # Errors
/// An index that refuses.
pub fn build(
    settings: &Settings,
    encoder: Encoder,
    heads: HeadStore,
    index: &Endpoint,
    wiring: &StageWiring,
) -> Result<Predictor, IndexError> {
    let StageWiring { codec, runtime, stop } = wiring;
    let connect = || runtime.block_on(index.connect());
    let index = until_opened(SERVICE.name, "the index", runtime, stop, IndexError::is_transient, connect)?;
    Ok(Predictor::new(index, heads, encoder, settings.clone(), codec.clone(), runtime.clone()))
}

/// Predicts prompts; see [`Predictor::new`].
#[derive(Debug)]
pub struct Predictor {
    index: PromptIndex,
    /// The collection behind the alias, once it is known to belong to `encoder`.
    collection: Option<String>,
    heads: HeadStore,
    encoder: Encoder,
    settings: Settings,
    codec: Codec,
    runtime: Handle,
}

/// The encoder to predict from, by the names of its two towers' vectors.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// `name@revision` of the pictures' vectors, with `;side=` if the side is not the trained one.
    /// A record's other vectors are ignored.
    pub pictures: String,
    /// `name@revision` of the prompts' vectors in the index.
    pub prompts: String,
    /// The length of both towers' vectors.
    pub dims: usize,
}

/// One image vector to predict from, and its record.
struct Input {
    embedding: ImageEmbedding,
    image: Vec<f32>,
    search: SearchVector,
}

impl Predictor {
    /// A predictor for the vectors of `encoder`; each batch uses the head that `heads` holds at its
    /// start.
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

    /// Checks the encoder of the index: with another encoder's vectors the neighbours would be
    /// meaningless.
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

    fn parse(&self, record: &InputRecord, recipe: Recipe) -> Result<Parsed<Input>, Refusal> {
        let value = record.value.as_deref().ok_or_else(|| {
            Refusal::record("null-value", "an image embedding has no value; nothing can be predicted")
        })?;
        let mut embedding: ImageEmbedding = self.codec.decode(value)?;
        let found = embedding.vectors.iter().position(|vector| vector.model == self.encoder.pictures);
        let image = found.map(|at| embedding.vectors.swap_remove(at)).ok_or_else(|| {
            let reason = format!(
                "no vector of {} in the record; run the image-encoder with it",
                self.encoder.pictures
            );
            Refusal::record("no-vector-of-encoder", reason)
        })?;
        // The index refuses a faulty vector too, but then the whole batch fails.
        image
            .check(self.encoder.dims)
            .map_err(|fault| Refusal::record(fault.code(), format!("the image's vector {fault}")))?;
        let image = image.values;
        let search = recipe.search_vector(&image).map_err(as_rejection)?;
        Ok(Parsed::Input(Input { embedding, image, search }))
    }

    /// The nearest prompts of every input, in order.
    fn retrieve(&self, inputs: &[Input]) -> Result<Vec<Vec<Hit>>, IndexError> {
        let queries = inputs.iter().map(|input| query(&input.search, self.settings.k)).collect();
        self.runtime.block_on(self.index.nearest(queries))
    }

    fn output(
        &self,
        record: &InputRecord,
        input: Input,
        hits: Vec<Hit>,
        head: Option<&LoadedHead>,
    ) -> Result<Vec<OutputRecord>, Refusal> {
        let recipe = self.recipe(head);
        let neighbours: Vec<Neighbour> = hits.iter().map(|hit| hit.similarity_and_minilm().into()).collect();
        let predicted = recipe.predict(&input.image, &neighbours).map_err(as_rejection)?;
        let Predicted { vector, parts, expected_cosine } =
            predicted.ok_or_else(|| Rejection::new("nothing-to-predict-from", "no neighbour and no head"))?;
        let embedding = input.embedding;
        let prediction = Prediction {
            image_id: embedding.image_id,
            source_key: embedding.source_key,
            source_topic: embedding.source_topic,
            source_partition: embedding.source_partition,
            source_offset: embedding.source_offset,
            vector,
            knn_vector: parts.knn,
            head_vector: parts.head,
            neighbours: shown(hits, parts.weights, self.settings.neighbours),
            expected_cosine,
            encoder: self.encoder.pictures.clone(),
            head: head.map(|head| head.name().to_owned()),
            index: self.collection.clone().unwrap_or_default(),
            blend: BLEND_NAME.to_owned(),
            created_at_ms: embedding.created_at_ms,
        };
        let value = self.codec.encode(&record.topic_name_of(Topic::Predictions), &prediction);
        Ok(vec![OutputRecord {
            topic: Topic::Predictions,
            key: Some(prediction.image_id.to_string().into_bytes()),
            value: Some(value?),
            headers: cloudevents::forwarded(&record.headers),
        }])
    }

    fn recipe<'a>(&self, head: Option<&'a LoadedHead>) -> Recipe<'a> {
        Recipe { retrieval: self.settings.retrieval, head: head.map(LoadedHead::trained) }
    }
}

fn query(search: &SearchVector, k: usize) -> Query {
    match search {
        SearchVector::Clip(vector) => Query::new(Space::Clip, vector.clone(), k),
        SearchVector::MiniLm(vector) => Query::new(Space::MiniLm, vector.clone(), k),
    }
}

/// A vector that does not fit the head or the index is the record's fault.
fn as_rejection(error: ModelError) -> Rejection {
    Rejection::new("head", error.to_string())
}

/// Makes pictures that arrive before the first prompt wait for it, uncommitted, instead of becoming
/// dead letters.
fn wait_for_prompts(hits: &[Vec<Hit>], head: Option<&LoadedHead>) -> Result<(), BatchError> {
    match head.is_none() && hits.iter().any(Vec::is_empty) {
        true => Err(BatchError::Transient(
            "the index has no prompt and no head is announced; import prompts (unprompt prompts import FILE)"
                .into(),
        )),
        false => Ok(()),
    }
}

fn shown(hits: Vec<Hit>, weights: Vec<f32>, count: usize) -> Vec<records::Neighbour> {
    let neighbours = hits.into_iter().zip(weights).take(count);
    neighbours
        .map(|(hit, weight)| records::Neighbour {
            prompt_id: hit.prompt_id,
            text: hit.text,
            similarity: hit.similarity,
            weight,
        })
        .collect()
}

impl Stage for Predictor {
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        self.check_collection()?;
        // The whole batch uses one head, from search to blend, even if another is announced
        // meanwhile.
        let head = self.heads.current();
        let recipe = self.recipe(head.as_deref());
        let parsed = ParsedBatch::parse(batch, |record| self.parse(record, recipe))?;
        let hits = self.retrieve(parsed.inputs()).map_err(as_batch_error)?;
        wait_for_prompts(&hits, head.as_deref())?;
        parsed.outcomes(hits, |record, input, hits| self.output(record, input, hits, head.as_deref()))
    }
}

/// A missing collection is temporary: its indexer has not started yet.
fn as_batch_error(error: IndexError) -> BatchError {
    if error.is_transient() || matches!(error, IndexError::NoCollection { .. }) {
        BatchError::Transient(error.to_string())
    } else {
        BatchError::Fatal(error.to_string())
    }
}
