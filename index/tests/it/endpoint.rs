//! An endpoint to test against, and vectors to test with.

use std::collections::BTreeMap;
use std::time::Duration;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{
    CreateCollection, CreateCollectionBuilder, Distance, PointStruct, UpsertPointsBuilder,
    VectorParamsBuilder,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use unprompt_index::embedded::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Layout, PromptIndex, PromptPoint, Uuid};

/// The server to test instead of the embedded endpoint.
pub const SERVER: &str = "UNPROMPT_TEST_QDRANT";

pub struct Endpoint {
    pub url: String,
    embedded: Option<(EmbeddedIndex, TempDir)>,
}

impl Endpoint {
    pub async fn start() -> Self {
        match std::env::var(SERVER) {
            Ok(url) => Self { url, embedded: None },
            Err(_) => {
                let folder = tempfile::tempdir().unwrap();
                let index = EmbeddedIndex::start(folder.path(), 0).await.unwrap();
                Self { url: index.url(), embedded: Some((index, folder)) }
            }
        }
    }

    pub fn client(&self) -> Qdrant {
        client(&self.url)
    }

    /// A prompt index of its own name, so that tests do not meet.
    pub async fn index(&self) -> PromptIndex {
        let options = ConnectOptions { alias: unique("prompts"), ..Default::default() };
        PromptIndex::connect(&self.url, options).await.unwrap()
    }

    /// A collection with one unnamed vector of 4 dimensions.
    pub async fn collection(&self) -> (Qdrant, String) {
        let (client, name) = (self.client(), unique("points"));
        client.create_collection(small(&name)).await.unwrap();
        (client, name)
    }

    pub async fn stop(self) {
        if let Some((index, _folder)) = self.embedded {
            index.stop().await.unwrap();
        }
    }
}

pub fn client(url: &str) -> Qdrant {
    Qdrant::from_url(url).timeout(Duration::from_secs(60)).skip_compatibility_check().build().unwrap()
}

pub fn small(name: &str) -> CreateCollection {
    CreateCollectionBuilder::new(name).vectors_config(VectorParamsBuilder::new(4, Distance::Cosine)).build()
}

pub async fn upsert(client: &Qdrant, name: &str, points: Vec<PointStruct>) {
    client.upsert_points(UpsertPointsBuilder::new(name, points).wait(true)).await.unwrap();
}

pub fn unique(stem: &str) -> String {
    format!("{stem}-{}", Uuid::new_v4().simple())
}

pub fn layout() -> Layout {
    Layout::new("tiny-clip@0a1b2c", CLIP_DIM, "all-MiniLM-L6-v2@ffff")
}

pub const CLIP_DIM: usize = 16;

/// A prompt whose vectors follow from its number.
pub fn prompt(number: u64, source: &str, created_at_ms: i64) -> PromptPoint {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    PromptPoint {
        prompt_id: Uuid::from_u128(u128::from(number) + 1),
        text: format!("a painting of {number} boats"),
        sources: vec![source.to_owned()],
        created_at_ms,
        attributes: BTreeMap::from([("style".to_owned(), format!("style {}", number % 3))]),
        minilm: unit((0..384).map(|_| rng.random_range(-1.0..1.0)).collect()),
        clip: unit((0..CLIP_DIM).map(|_| rng.random_range(-1.0..1.0)).collect()),
    }
}

pub fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|v| *v /= norm);
    vector
}

/// Vectors as sentence embeddings lie: in many overlapping clusters of far fewer dimensions than they have.
pub struct Cloud {
    centres: Vec<Vec<f32>>,
    axes: Vec<Vec<f32>>,
    rng: ChaCha8Rng,
}

impl Cloud {
    pub fn new(dim: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rows = |count: usize| -> Vec<Vec<f32>> {
            (0..count).map(|_| (0..dim).map(|_| gaussian(&mut rng)).collect()).collect()
        };
        let (centres, axes) = (rows(300), rows(32));
        Self { centres, axes, rng }
    }

    pub fn vector(&mut self) -> Vec<f32> {
        let mut vector = self.centres[self.rng.random_range(0..self.centres.len())].clone();
        for axis in &self.axes {
            let along = 0.2 * gaussian(&mut self.rng);
            vector.iter_mut().zip(axis).for_each(|(v, a)| *v += along * a);
        }
        for v in &mut vector {
            *v += 0.1 * gaussian(&mut self.rng);
        }
        unit(vector)
    }
}

/// Near enough to normal: the sum of twelve uniform values.
fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}
