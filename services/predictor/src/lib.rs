//! The predictor: consumes image embeddings and produces predictions.
//!
//! Each prediction blends two parts: the weighted mean of the nearest prompts' MiniLM vectors, and
//! the regression head announced on heads.v1. It knows the index's endpoint and the head files; it
//! must not know any picture.

mod error;
mod follow;
mod heads;
mod settings;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use unprompt_index::{
    Endpoint, Ensured, Hit, IndexError, IndexInfo, Layout, MINILM_DIM, PromptIndex, Query, Space, Uuid,
};
use unprompt_models::ModelError;
use unprompt_models::recipe::{BLEND_NAME, Neighbour, Predicted, Recipe, SearchVector};
use unprompt_schemas::cloudevents;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{self, ImageEmbedding, Prediction, check_vector};
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
pub use heads::{HeadRequirements, HeadStore, RefusedHead};
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
    layout: Layout,
    wiring: &StageWiring,
) -> Result<Predictor, IndexError> {
    let StageWiring { codec, runtime, stop } = wiring;
    let connect = || runtime.block_on(index.connect());
    let index = until_opened(SERVICE.name, "the index", runtime, stop, IndexError::is_transient, connect)?;
    let predictor = Predictor::new(index, heads, encoder, settings.clone(), codec.clone(), runtime.clone());
    Ok(predictor.ensuring(layout))
}

/// Predicts prompts; see [`Predictor::new`].
#[derive(Debug)]
pub struct Predictor {
    index: PromptIndex,
    /// The collection behind the alias, known to belong to `encoder`.
    collection: Option<Collection>,
    /// The layout of a collection to create where there is none.
    layout: Option<Layout>,
    heads: HeadStore,
    encoder: Encoder,
    settings: Settings,
    codec: Codec,
    runtime: Handle,
}

/// The time that the alias may point to another collection before the predictor follows it.
const ALIAS_CHECK: Duration = Duration::from_secs(2);

/// The collection that is searched. It is searched by its own name, so that a batch never compares
/// its pictures with another encoder's prompts, even while the alias moves.
#[derive(Debug)]
struct Collection {
    name: String,
    index: PromptIndex,
    checked: Instant,
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
    /// `name@revision` of the MiniLM whose vectors are predicted.
    pub minilm: String,
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
        Self { index, collection: None, layout: None, heads, encoder, settings, codec, runtime }
    }

    /// Creates an empty collection of this layout if there is none behind the alias, such as after
    /// `index drop`: the indexer would do so only with its next prompt. If that is refused, batches
    /// wait for the indexer.
    #[must_use]
    pub fn ensuring(self, layout: Layout) -> Self {
        Self { layout: Some(layout), ..self }
    }

    /// Reads the state of the collection, which is created first if there is none.
    async fn info_or_ensure(&self) -> Result<IndexInfo, IndexError> {
        match (self.index.info().await, &self.layout) {
            (Err(error @ IndexError::NoCollection { .. }), Some(layout)) => {
                match self.index.ensure(layout).await {
                    Ok(Ensured { collection, .. }) => {
                        tracing::warn!(collection, "there was no collection; it was created");
                        self.index.info().await
                    }
                    Err(refused) => {
                        tracing::warn!(%refused, "there is no collection, and it cannot be created here");
                        Err(error)
                    }
                }
            }
            (info, _) => info,
        }
    }

    /// Checks the models of the collection behind the alias: with another encoder's vectors the
    /// neighbours would be meaningless, and another MiniLM's make another prediction.
    fn check_collection(&mut self) -> Result<(), BatchError> {
        if self.collection.as_ref().is_some_and(|known| known.checked.elapsed() < ALIAS_CHECK) {
            return Ok(());
        }
        let info = self.runtime.block_on(self.info_or_ensure()).map_err(as_batch_error)?;
        let other = |models: &str, found: &str, wanted: &str, key: &str| {
            Err(BatchError::Fatal(format!(
                "the index {} behind the alias holds {models} of {found}, this predictor reads {wanted}; configure the same [models] {key} for \
                 both, or point the alias to a collection of {wanted}",
                info.collection
            )))
        };
        match (&info.encoder, &info.minilm) {
            (Some(found), _) if *found != self.encoder.prompts => {
                other("prompts", found, &self.encoder.prompts, "clip")
            }
            (_, Some(found)) if *found != self.encoder.minilm => {
                other("vectors", found, &self.encoder.minilm, "minilm")
            }
            _ => {
                let index = self.index.collection_named(&info.collection);
                let checked = Instant::now();
                self.collection = Some(Collection { name: info.collection, index, checked });
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

    /// The nearest prompts of every input, in order, and the texts of those that are shown. A
    /// query that the index refuses is that input's error.
    async fn retrieve(&self, inputs: &[Input]) -> Result<(Vec<QueryResult>, TextsById), IndexError> {
        let index = self.collection.as_ref().map_or(&self.index, |collection| &collection.index);
        let queries = inputs.iter().map(|input| query(&input.search, self.settings.k)).collect();
        let found = index.nearest_each(queries).await?;
        let shown = |hits: &Vec<Hit>| -> Vec<Uuid> {
            hits.iter().take(self.settings.neighbours).map(|hit| hit.prompt_id).collect()
        };
        let mut ids: Vec<Uuid> = found.iter().flatten().flat_map(shown).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok((found, index.texts(&ids).await?))
    }

    /// Retrieves, and forgets a collection that has been dropped, so that the next attempt looks
    /// behind the alias again.
    fn retrieve_or_forget(&mut self, inputs: &[Input]) -> Result<(Vec<QueryResult>, TextsById), BatchError> {
        let retrieved = self.runtime.block_on(self.retrieve(inputs));
        if matches!(retrieved, Err(IndexError::NoCollection { .. })) {
            self.collection = None;
        }
        retrieved.map_err(as_batch_error)
    }

    fn output(
        &self,
        record: &InputRecord,
        input: Input,
        found: QueryResult,
        texts: &TextsById,
        head: Option<&LoadedHead>,
    ) -> Result<Vec<OutputRecord>, Refusal> {
        let hits = found.map_err(|error| Rejection::new("index-refused", error.to_string()))?;
        let recipe = self.recipe(head);
        let neighbours: Vec<Neighbour> = hits.iter().map(|hit| hit.similarity_and_minilm().into()).collect();
        let predicted = recipe.predict(&input.image, &neighbours).map_err(as_rejection)?;
        let Predicted { vector, parts, expected_cosine } =
            predicted.ok_or_else(|| Rejection::new("nothing-to-predict-from", "no neighbour and no head"))?;
        // Finite weights of a head may still give a sum that is not.
        check_vector(&vector, MINILM_DIM)
            .map_err(|fault| Refusal::record(fault.code(), format!("the predicted vector {fault}")))?;
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
            neighbours: shown(&hits, &parts.weights, texts, self.settings.neighbours),
            expected_cosine,
            encoder: self.encoder.pictures.clone(),
            head: head.map(|head| head.name().to_owned()),
            index: self.collection.as_ref().map(|collection| collection.name.clone()).unwrap_or_default(),
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

/// The nearest prompts of one input, or the index's refusal of its query.
type QueryResult = Result<Vec<Hit>, IndexError>;
/// The texts of prompts by their ids.
type TextsById = HashMap<Uuid, String>;

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
fn wait_for_prompts(found: &[QueryResult], head: Option<&LoadedHead>) -> Result<(), BatchError> {
    match head.is_none() && found.iter().flatten().any(Vec::is_empty) {
        true => Err(BatchError::Transient(
            "the index has no prompt and no head is announced; import prompts (unprompt prompts import FILE)"
                .into(),
        )),
        false => Ok(()),
    }
}

/// The nearest prompts with their texts. A prompt that was deleted after the search is left out.
fn shown(hits: &[Hit], weights: &[f32], texts: &TextsById, count: usize) -> Vec<records::Neighbour> {
    let neighbours = hits.iter().zip(weights).take(count);
    let with_text = |(hit, weight): (&Hit, &f32)| {
        let text = texts.get(&hit.prompt_id)?.clone();
        let Hit { prompt_id, similarity, .. } = *hit;
        Some(records::Neighbour { prompt_id, text, similarity, weight: *weight })
    };
    neighbours.filter_map(with_text).collect()
}

impl Stage for Predictor {
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        self.check_collection()?;
        // The whole batch uses one head, from search to blend, even if another is announced
        // meanwhile.
        let head = self.heads.current();
        let recipe = self.recipe(head.as_deref());
        let parsed = ParsedBatch::parse(batch, |record| self.parse(record, recipe))?;
        let (found, texts) = self.retrieve_or_forget(parsed.inputs())?;
        wait_for_prompts(&found, head.as_deref())?;
        parsed.outcomes(found, |record, input, found| {
            self.output(record, input, found, &texts, head.as_deref())
        })
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
