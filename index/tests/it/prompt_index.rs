//! A prompt index to test, and prompts for it.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unprompt_index::{ConnectOptions, Layout, PromptIndex, PromptPoint, Uuid};
use unprompt_test_qdrant::{TestEndpoint, unique, unit};

pub const CLIP_DIM: usize = 16;

/// A prompt index behind its own alias, so that tests do not interfere.
pub async fn connect(endpoint: &TestEndpoint) -> PromptIndex {
    let options = ConnectOptions { alias: unique("prompts"), ..Default::default() };
    PromptIndex::connect(&endpoint.url, options).await.unwrap()
}

pub fn layout() -> Layout {
    Layout::new("tiny-clip@0a1b2c", CLIP_DIM, "all-MiniLM-L6-v2@ffff")
}

/// A prompt whose vectors are determined by its number.
pub fn prompt(number: u64, source: &str, created_at_ms: i64) -> PromptPoint {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    PromptPoint {
        prompt_id: Uuid::from_u128(u128::from(number) + 1),
        text: format!("a painting of {number} boats"),
        sources: vec![source.to_owned()],
        created_at_ms,
        version: None,
        attributes: BTreeMap::from([("style".to_owned(), format!("style {}", number % 3))]),
        minilm: unit((0..384).map(|_| rng.random_range(-1.0..1.0)).collect()),
        clip: unit((0..CLIP_DIM).map(|_| rng.random_range(-1.0..1.0)).collect()),
    }
}
