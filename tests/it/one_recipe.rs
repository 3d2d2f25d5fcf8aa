//! Training and serving predict by one recipe: the predictor reproduces the validation scores of
//! the trainer.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Layout, PromptIndex, PromptPoint};
use unprompt_models::head::{RidgeHead, Samples};
use unprompt_models::metrics::{mean_cosine, normalise};
use unprompt_models::recipe::{Retrieval, TrainedHead};
use unprompt_predictor::{Encoder, HeadRequirements, HeadStore, Predictor, Settings};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::{Head, ImageEmbedding, NamedVector, Prediction};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Outcome, Stage};
use unprompt_trainer::{Pair, Validation};

const ENCODER: &str = "tiny@0";
const MINILM: &str = "minilm@0";
const CLIP_DIMS: usize = 16;
const MINILM_DIMS: usize = 384;
const K: usize = 20;

/// Prompts and pictures in a world where a picture's vector is a projection of its prompt's, with
/// noise.
struct World {
    rng: ChaCha8Rng,
    /// [16][384]
    projection: Vec<Vec<f32>>,
}

impl World {
    fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(16);
        let projection = (0..CLIP_DIMS).map(|_| vector(&mut rng, MINILM_DIMS)).collect();
        Self { rng, projection }
    }

    /// A prompt's MiniLM vector. It depends on few numbers, so that some prompts are near each
    /// other.
    fn prompt(&mut self) -> Vec<f32> {
        let mut prompt = vec![0.1; MINILM_DIMS];
        (0..8).for_each(|at| prompt[at * 7] += self.rng.random::<f32>());
        normalise(&mut prompt);
        prompt
    }

    fn picture(&mut self, prompt: &[f32]) -> Vec<f32> {
        let dot = |row: &Vec<f32>| row.iter().zip(prompt).map(|(a, b)| a * b).sum::<f32>();
        let mut picture: Vec<f32> = self.projection.iter().map(dot).collect();
        picture.iter_mut().for_each(|value| *value += 0.05 * (self.rng.random::<f32>() - 0.5));
        normalise(&mut picture);
        picture
    }

    fn pairs(&mut self, name: &str, count: usize) -> Vec<Pair> {
        let pair = |at: usize| {
            let prompt = self.prompt();
            Pair { prompt_id: prompt_id(&format!("{name} {at}")), image: self.picture(&prompt), prompt }
        };
        (0..count).map(pair).collect()
    }
}

fn vector(rng: &mut ChaCha8Rng, dims: usize) -> Vec<f32> {
    (0..dims).map(|_| rng.random::<f32>() - 0.5).collect()
}

fn points(world: &mut World) -> Vec<PromptPoint> {
    let point = |pair: Pair| PromptPoint {
        prompt_id: pair.prompt_id,
        text: pair.prompt_id.to_string(),
        sources: vec!["test".into()],
        created_at_ms: 0,
        version: None,
        attributes: BTreeMap::new(),
        minilm: pair.prompt,
        clip: pair.image,
    };
    world.pairs("indexed", 200).into_iter().map(point).collect()
}

fn ridge(world: &mut World) -> RidgeHead {
    let pairs = world.pairs("trained on", 100);
    let samples = Samples {
        inputs: pairs.iter().map(|pair| pair.image.as_slice()).collect(),
        targets: pairs.iter().map(|pair| pair.prompt.as_slice()).collect(),
    };
    RidgeHead::fit(&samples, 0.3).unwrap()
}

/// The head as the trainer announces it.
fn announced(trained: &TrainedHead, folder: &Path) -> Head {
    let bytes = trained.ridge.to_bytes(ENCODER, MINILM).unwrap();
    let path = folder.join("head.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    Head {
        name: "ridge".into(),
        path: path.display().to_string(),
        sha256: format!("{:x}", Sha256::digest(&bytes)),
        encoder: ENCODER.into(),
        minilm: MINILM.into(),
        metrics: BTreeMap::new(),
        blend_weight: f64::from(trained.blend_weight),
        calibration: trained.calibration.as_ref().unwrap().values(),
        created_at_ms: 1,
    }
}

fn record(codec: &Codec, pair: &Pair) -> InputRecord {
    let embedding = ImageEmbedding {
        image_id: pair.prompt_id,
        prompt_id: Some(pair.prompt_id),
        vectors: vec![NamedVector { model: ENCODER.into(), values: pair.image.clone() }],
        source_key: None,
        source_topic: "images.v1".into(),
        source_partition: 0,
        source_offset: 0,
        created_at_ms: 0,
    };
    InputRecord {
        value: Some(codec.encode("image-embeddings.v1", &embedding).unwrap()),
        ..InputRecord::new(Topic::ImageEmbeddings)
    }
}

fn prediction(codec: &Codec, outcome: &Outcome) -> Prediction {
    let Outcome::Outputs(outputs) = outcome else { panic!("{outcome:?}") };
    codec.decode(outputs[0].value.as_deref().unwrap()).unwrap()
}

/// Given an index and held-out pictures, when a head is learned with either retrieval and then
/// served, then the means of the served parts are the trainer's validation scores, and every
/// prediction has its expected cosine.
#[test]
fn the_predictor_reproduces_the_trainers_validation_scores() {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let served = runtime.block_on(EmbeddedIndex::start(&folder.path().join("index"), 0)).unwrap();
    let connect =
        || runtime.block_on(PromptIndex::connect(&served.url(), ConnectOptions::default())).unwrap();
    let (index, mut world, codec) = (connect(), World::new(), Codec::single_object());
    runtime.block_on(index.ensure(&Layout::new(ENCODER, CLIP_DIMS, MINILM))).unwrap();
    runtime.block_on(index.upsert(points(&mut world))).unwrap();
    let (ridge, held_out) = (ridge(&mut world), world.pairs("held out", 60));
    let pairs: Vec<&Pair> = held_out.iter().collect();
    let truth: Vec<&[f32]> = held_out.iter().map(|pair| pair.prompt.as_slice()).collect();
    let batch: Vec<InputRecord> = held_out.iter().map(|pair| record(&codec, pair)).collect();
    let mut by_neighbours = Vec::new();
    for retrieval in [Retrieval::Clip, Retrieval::MiniLm] {
        let learned =
            runtime.block_on(Validation::learn(&index, ridge.clone(), &pairs, retrieval, K)).unwrap();
        let heads = HeadStore::new(HeadRequirements {
            encoder: ENCODER.into(),
            dims: CLIP_DIMS,
            minilm: MINILM.into(),
            folders: vec![folder.path().to_owned()],
        });
        heads.announce(announced(&learned.head, folder.path())).unwrap();
        let encoder = Encoder {
            pictures: ENCODER.into(),
            prompts: ENCODER.into(),
            dims: CLIP_DIMS,
            minilm: MINILM.into(),
        };
        let settings = Settings { k: K, retrieval, neighbours: 3, head_folders: Vec::new() };
        let handle = runtime.handle().clone();
        let mut predictor = Predictor::new(connect(), heads, encoder, settings, codec.clone(), handle);
        let outcomes = predictor.process(&batch).unwrap();
        let predictions: Vec<Prediction> =
            outcomes.iter().map(|outcome| prediction(&codec, outcome)).collect();
        let scores = learned.metrics();
        let close = |way: &str, vectors: Vec<Vec<f32>>| {
            let (served, learned) =
                (mean_cosine(&vectors, &truth), scores[&format!("validation_cosine_{way}")]);
            assert!(
                (served - learned).abs() < 1e-7,
                "{retrieval:?}, {way}: {served} served, {learned} learned"
            );
            learned
        };
        let knn = close("knn", predictions.iter().map(|one| one.knn_vector.clone().unwrap()).collect());
        close("head", predictions.iter().map(|one| one.head_vector.clone().unwrap()).collect());
        close("blend", predictions.iter().map(|one| one.vector.clone()).collect());
        by_neighbours.push(knn);
        assert!(predictions.iter().all(|one| one.expected_cosine.is_some()));
    }
    assert_ne!(by_neighbours[0], by_neighbours[1], "both retrievals found the same: this test proves little");
    drop(index);
    runtime.block_on(served.stop()).unwrap();
}
