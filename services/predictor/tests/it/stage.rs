//! The predictor as a plain type on a real index: its predictions with neighbours, with a head,
//! with both, with neither.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Layout, MINILM_DIM, PromptIndex, PromptPoint};
use unprompt_models::recipe::Retrieval;
use unprompt_predictor::{Encoder, HeadStore, Predictor, Settings};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::{ImageEmbedding, NamedVector, Prediction};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, Stage as _};

use super::{CLIP_DIM, ENCODER, MINILM, head_in, heads_in};

struct Fixture {
    runtime: Runtime,
    endpoint: EmbeddedIndex,
    index: PromptIndex,
    heads: HeadStore,
    predictor: Predictor,
    folder: TempDir,
}

impl Fixture {
    fn start() -> Self {
        let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let endpoint = runtime.block_on(EmbeddedIndex::start(&folder.path().join("index"), 0)).unwrap();
        let url = endpoint.url();
        let index = runtime.block_on(PromptIndex::connect(&url, ConnectOptions::default())).unwrap();
        runtime.block_on(index.ensure(&Layout::new(ENCODER, CLIP_DIM, MINILM))).unwrap();
        let heads = heads_in(folder.path());
        let encoder = encoder();
        let settings =
            Settings { k: 10, retrieval: Retrieval::Clip, neighbours: 1, head_folders: Vec::new() };
        let (codec, handle) = (Codec::single_object(), runtime.handle().clone());
        let predictor = Predictor::new(index.clone(), heads.clone(), encoder, settings, codec, handle);
        Self { runtime, endpoint, index, heads, predictor, folder }
    }

    fn with_prompts(self) -> Self {
        let point = |axis: usize| PromptPoint {
            prompt_id: prompt_id(&format!("prompt {axis}")),
            text: format!("prompt {axis}"),
            sources: vec!["test".into()],
            created_at_ms: 0,
            version: None,
            attributes: BTreeMap::new(),
            minilm: unit(MINILM_DIM, 10 + axis),
            clip: unit(CLIP_DIM, axis),
        };
        self.runtime.block_on(self.index.upsert((0..2).map(point).collect())).unwrap();
        self
    }

    fn with_head(self) -> Self {
        self.heads.announce(head_in(self.folder.path(), "ridge", 1)).unwrap();
        self
    }

    /// The outcome for a picture similar to the first prompt.
    fn outcome(&mut self) -> Result<Outcome, BatchError> {
        Ok(self.predictor.process(&[picture(unit(CLIP_DIM, 0))])?.remove(0))
    }

    fn prediction(&mut self) -> Prediction {
        prediction(&self.outcome().unwrap())
    }

    fn stop(self) {
        drop((self.index, self.predictor));
        self.runtime.block_on(self.endpoint.stop()).unwrap();
    }
}

fn encoder() -> Encoder {
    let (pictures, minilm) = (ENCODER.to_owned(), MINILM.into());
    Encoder { prompts: pictures.clone(), pictures, dims: CLIP_DIM, minilm }
}

fn unit(dims: usize, axis: usize) -> Vec<f32> {
    (0..dims).map(|at| f32::from(u8::from(at == axis))).collect()
}

fn picture(vector: Vec<f32>) -> InputRecord {
    let embedding = ImageEmbedding {
        image_id: prompt_id("a picture"),
        prompt_id: None,
        vectors: vec![NamedVector { model: ENCODER.into(), values: vector }],
        source_key: None,
        source_topic: "images.v1".into(),
        source_partition: 0,
        source_offset: 7,
        created_at_ms: 500,
    };
    let value = Codec::single_object().encode("image-embeddings.v1", &embedding).unwrap();
    InputRecord { timestamp_ms: 500, value: Some(value), ..InputRecord::new(Topic::ImageEmbeddings) }
}

fn prediction(outcome: &Outcome) -> Prediction {
    let Outcome::Outputs(outputs) = outcome else { panic!("{outcome:?}") };
    Codec::single_object().decode(outputs[0].value.as_deref().unwrap()).unwrap()
}

fn code(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Outputs(_) => None,
        Outcome::Rejected(rejection) => Some(rejection.code),
    }
}

#[test]
fn neighbours_alone_predict_their_weighted_mean() {
    let mut fixture = Fixture::start().with_prompts();
    let predicted = fixture.prediction();
    assert_eq!(Some(&predicted.vector), predicted.knn_vector.as_ref());
    assert!(predicted.vector[10] > 0.999, "the nearest prompt weighs most: {}", predicted.vector[10]);
    assert_eq!((predicted.head_vector, predicted.head, predicted.expected_cosine), (None, None, None));
    assert_eq!(predicted.neighbours.len(), 1, "as many as are to be shown");
    assert_eq!(predicted.neighbours[0].text, "prompt 0");
    assert!(predicted.neighbours[0].weight > 0.999);
    fixture.stop();
}

#[test]
fn a_head_alone_predicts_without_an_expected_cosine() {
    let mut fixture = Fixture::start().with_head();
    let predicted = fixture.prediction();
    assert_eq!(Some(&predicted.vector), predicted.head_vector.as_ref());
    assert_eq!(predicted.head.as_deref(), Some("ridge"));
    assert_eq!((predicted.knn_vector, predicted.expected_cosine), (None, None));
    assert!(predicted.neighbours.is_empty());
    fixture.stop();
}

#[test]
fn neighbours_and_a_head_are_blended() {
    let mut fixture = Fixture::start().with_prompts().with_head();
    let predicted = fixture.prediction();
    let (knn, head) = (predicted.knn_vector.unwrap(), predicted.head_vector.unwrap());
    let expected = unprompt_models::blend::blend(&knn, &head, 0.5);
    assert_eq!(predicted.vector, expected);
    assert!(predicted.vector != knn && predicted.vector != head);
    fixture.stop();
}

#[test]
fn a_picture_that_comes_before_prompts_and_heads_waits() {
    let mut fixture = Fixture::start();
    assert!(matches!(fixture.outcome(), Err(BatchError::Transient(_))));
    let mut fixture = fixture.with_prompts();
    assert_eq!(fixture.prediction().neighbours.len(), 1);
    fixture.stop();
}

#[test]
fn records_without_a_usable_embedding_are_rejected_alone() {
    let mut fixture = Fixture::start().with_prompts().with_head();
    let good = picture(unit(CLIP_DIM, 0));
    let batch = [
        good.clone(),
        InputRecord { value: None, ..good.clone() },
        InputRecord { value: Some(b"not avro".to_vec()), ..good.clone() },
        picture(unit(CLIP_DIM + 1, 0)),
        picture(Vec::new()),
        picture(vec![f32::NAN, 0.0, 0.0]),
        picture(vec![0.0, f32::INFINITY, 0.0]),
        picture(vec![0.0; CLIP_DIM]),
        picture(vec![1e30; CLIP_DIM]),
        good,
    ];
    let outcomes = fixture.predictor.process(&batch).unwrap();
    let codes: Vec<_> = outcomes.iter().map(code).collect();
    assert_eq!((codes[0], codes[1], codes[9]), (None, Some("null-value"), None));
    assert!(codes[2].is_some());
    assert_eq!(codes[3..5], [Some("dimension"); 2]);
    assert_eq!(codes[5..7], [Some("not-finite"); 2]);
    assert_eq!(codes[7..9], [Some("no-direction"); 2]);
    fixture.stop();
}

#[test]
fn an_alias_moved_to_another_encoder_stops_the_predictor() {
    let mut fixture = Fixture::start().with_prompts();
    let first = fixture.prediction();
    let other = Layout::new("other@1", CLIP_DIM, MINILM);
    fixture.runtime.block_on(fixture.index.beside(&other)).unwrap();
    fixture.runtime.block_on(fixture.index.switch_to(&other)).unwrap();
    // Until it resolves the alias again, it searches the previous collection.
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match fixture.outcome() {
            Ok(outcome) => assert_eq!(prediction(&outcome).neighbours, first.neighbours),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "the moved alias was not detected");
        std::thread::sleep(Duration::from_millis(200));
    };
    let BatchError::Fatal(reason) = error else { panic!("{error:?}") };
    assert!(reason.contains("other@1") && reason.contains(ENCODER), "{reason}");
    fixture.stop();
}

#[test]
fn a_dropped_collection_is_recreated_with_the_next_picture() {
    let fixture = Fixture::start().with_prompts().with_head();
    let layout = Layout::new(ENCODER, CLIP_DIM, MINILM);
    let mut fixture = Fixture { predictor: fixture.predictor.ensuring(layout), ..fixture };
    assert_eq!(fixture.prediction().neighbours.len(), 1);
    fixture.runtime.block_on(fixture.index.drop_collection()).unwrap();
    // Once it looks for the collection again, it predicts by the head alone.
    let begun = Instant::now();
    let outcome = loop {
        match fixture.outcome() {
            Ok(outcome) => break outcome,
            Err(BatchError::Transient(_)) if begun.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error:?}"),
        }
    };
    assert!(prediction(&outcome).neighbours.is_empty());
    assert!(fixture.runtime.block_on(fixture.index.info()).is_ok());
    fixture.stop();
}

#[test]
fn a_dropped_and_recreated_collection_is_found_again() {
    let mut fixture = Fixture::start().with_prompts();
    fixture.prediction();
    fixture.runtime.block_on(fixture.index.drop_collection()).unwrap();
    assert!(matches!(fixture.outcome(), Err(BatchError::Transient(_))));
    fixture.runtime.block_on(fixture.index.ensure(&Layout::new(ENCODER, CLIP_DIM, MINILM))).unwrap();
    let mut fixture = fixture.with_prompts();
    assert_eq!(fixture.prediction().neighbours.len(), 1);
    fixture.stop();
}
