//! Shared by the benchmarks: model folders, texts, pictures, and records made of them.

pub mod cone;
pub mod passing;
pub mod vectors;

use std::path::{Path, PathBuf};

use tikv_jemallocator::Jemalloc;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::InputRecord;
use unprompt_tiny_world::{Grammar, Split};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The repository's folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A checkpoint of the tiny world: `sd2` or `clip`.
pub fn checkpoint(name: &str) -> PathBuf {
    repository().join("models/tiny-world/checkpoints").join(name)
}

/// MiniLM's folder: in $UNPROMPT_MODELS, which `make` sets, or in the user's cache.
pub fn minilm() -> PathBuf {
    let models = std::env::var_os("UNPROMPT_MODELS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/unprompt/models");
    models.unwrap_or_else(home).join("all-MiniLM-L6-v2")
}

/// Prompts from the grammar, the same in every run.
pub fn texts(count: usize) -> Vec<String> {
    Grammar::new(7).scenes(Split::Train).take(count).map(|scene| scene.prompt()).collect()
}

/// A PNG of 64 × 64 pixels that differs with `at`.
pub fn png(at: usize) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| {
        image::Rgb([(x * 4) as u8, (y * 4) as u8, (at as u32 * 37 + x * y) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    // Writing to memory cannot fail for a picture of this size.
    let _ = picture.write_to(&mut bytes, image::ImageFormat::Png);
    bytes.into_inner()
}

/// A record as a stage receives it.
pub fn record(topic: Topic, offset: usize, value: Vec<u8>) -> InputRecord {
    InputRecord { offset: offset as i64, value: Some(value), ..InputRecord::new(topic) }
}

/// Prompts as records of prompts.v1, each with a seed if `draw` is set.
pub fn prompt_records(count: usize, draw: bool) -> anyhow::Result<Vec<InputRecord>> {
    let codec = Codec::single_object();
    let records = texts(count).into_iter().enumerate().map(|(at, text)| {
        let seeds = if draw { vec![at as i64] } else { Vec::new() };
        let prompt = Prompt { text, source: "bench".into(), seeds, attributes: Default::default() };
        Ok(record(Topic::Prompts, at, codec.encode("prompts.v1", &prompt)?))
    });
    records.collect()
}
