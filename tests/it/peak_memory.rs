//! The peak memory of each stage on the worst batches within the limits, as the kernel measures it
//! for a separate process. `models` and `tests/fuzz` measure the decoders themselves.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
use tokio::runtime::Runtime;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_generator::Generator;
use unprompt_image_encoder::{EncoderFolder, ImageEncoder};
use unprompt_index::{ConnectOptions, Layout, MINILM_DIM, PromptIndex, PromptPoint};
use unprompt_indexer::Indexer;
use unprompt_models::encoder::VisionSettings;
use unprompt_models::minilm::Engine;
use unprompt_models::picture::Limits;
use unprompt_models::recipe::Retrieval;
use unprompt_models::stable_diffusion::{GenerationParams, Precision};
use unprompt_predictor::{Encoder, HeadRequirements, HeadStore, Predictor, Settings};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::{
    ATTRIBUTES_MAX_BYTES, ImageEmbedding, NamedVector, PROMPT_MAX_BYTES, Prompt, PromptEmbedding,
};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Outcome, Stage};
use unprompt_text_encoder::TextEncoder;

use crate::models::minilm;

const STAGE: &str = "UNPROMPT_TEST_STAGE";
/// The index of an indexer or a predictor, which belongs to the process of the test.
const INDEX: &str = "UNPROMPT_TEST_INDEX";
const MIB: usize = 1 << 20;
const CLIP: &str = "clip@1";
const CLIP_DIM: usize = 64;
const MINILM: &str = "minilm@1";

#[test]
#[ignore = "the tests below run it in a separate process"]
fn the_process_that_is_weighed() {
    let grown = match env::var(STAGE).unwrap().as_str() {
        "text-encoder" => text_encoder(),
        "image-encoder" => image_encoder(),
        "generator" => generator(),
        "indexer" => indexer(&env::var(INDEX).unwrap()),
        "predictor" => predictor(&env::var(INDEX).unwrap()),
        other => panic!("there is no stage {other}"),
    };
    println!("grown by {grown}");
}

/// Returns the growth of this stage's process at its peak, in bytes.
fn weighed(stage: &str, index: Option<&str>) -> usize {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "peak_memory::the_process_that_is_weighed"])
        .env(STAGE, stage)
        .env(INDEX, index.unwrap_or_default())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "the measured process failed: {said}");
    let grown = said.lines().find_map(|line| Some(line.split_once("grown by ")?.1)).expect(&said);
    grown.parse().unwrap()
}

fn holds(stage: &str, index: Option<&str>, bound: usize) {
    let grown = weighed(stage, index);
    println!("{stage} grew by {} MiB; the limit is {} MiB", grown / MIB, bound / MIB);
    assert!(grown <= bound, "{stage} grew by {} MiB; the limit is {} MiB", grown / MIB, bound / MIB);
}

#[test]
fn a_text_encoder_tokenizes_a_few_long_prompts_at_a_time() {
    // The prompts, their outputs, and the tokens of 256 KiB of text.
    holds("text-encoder", None, 224 * MIB);
}

#[test]
fn an_image_encoder_decodes_as_many_pictures_at_once_as_its_limits_allow() {
    // 16 bytes for each of four million pixels, the files, and the output of preprocessing.
    holds("image-encoder", None, 160 * MIB);
}

#[test]
fn a_generator_holds_the_pictures_of_one_pass() {
    holds("generator", None, 192 * MIB);
}

#[test]
fn an_indexer_holds_a_batch_of_the_longest_prompts_once_or_twice() {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let (served, _) = serve(&runtime, &folder.path().join("index"));
    holds("indexer", Some(&served.url()), 128 * MIB);
    runtime.block_on(served.stop()).unwrap();
}

#[test]
fn a_predictor_reads_the_texts_of_few_neighbours() {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let (served, index) = serve(&runtime, &folder.path().join("index"));
    for begin in (0..960).step_by(64) {
        runtime.block_on(index.upsert((begin..begin + 64).map(point).collect())).unwrap();
    }
    // 64 predictions of ten neighbours of 64 KiB take 40 MiB.
    holds("predictor", Some(&served.url()), 192 * MIB);
    runtime.block_on(served.stop()).unwrap();
}

/// Bytes of this process by the kernel's count: `VmRSS` now, `VmHWM` at its peak.
fn resident(line: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':')).unwrap();
    found.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Processes a batch as a runner does, in slices if the stage returns fewer outcomes, and returns
/// the growth at the peak. A small batch before it does the allocations that happen only once.
fn growth(stage: &mut impl Stage, small: &[InputRecord], batch: &[InputRecord]) -> usize {
    assert!(stage.process(small).unwrap().iter().all(|outcome| matches!(outcome, Outcome::Outputs(_))));
    // Resets the peak to what is resident now (proc(5)).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = resident("VmRSS");
    let mut done = 0;
    while done < batch.len() {
        let outcomes = stage.process(&batch[done..]).unwrap();
        for outcome in &outcomes {
            assert!(matches!(outcome, Outcome::Outputs(_)), "{outcome:?}");
        }
        done += outcomes.len();
    }
    resident("VmHWM").saturating_sub(before)
}

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-world/checkpoints").join(name)
}

fn record(topic: Topic, number: usize, value: Vec<u8>) -> InputRecord {
    InputRecord { offset: number as i64, timestamp_ms: 1, value: Some(value), ..InputRecord::new(topic) }
}

/// The longest prompt allowed, all punctuation: every character is a token.
fn longest(number: usize) -> String {
    let mut text = format!("{number} ");
    text.extend(["!", "?", ".", ","].into_iter().cycle().take(PROMPT_MAX_BYTES - text.len()));
    text
}

fn prompt(number: usize, text: String, seeds: Vec<i64>) -> InputRecord {
    let prompt = Prompt { text, source: "test".into(), seeds, attributes: BTreeMap::new() };
    record(Topic::Prompts, number, Codec::single_object().encode("prompts.v1", &prompt).unwrap())
}

fn text_encoder() -> usize {
    let mut stage =
        TextEncoder::load(&minilm(), &checkpoint("clip"), Engine::Candle, Codec::single_object()).unwrap();
    let batch: Vec<_> = (0..64).map(|number| prompt(number, longest(number), Vec::new())).collect();
    growth(&mut stage, &[prompt(0, "a red star".into(), Vec::new())], &batch)
}

fn image_encoder() -> usize {
    let limits = Limits { max_bytes: 20 * MIB, max_pixels: 4_000_000 };
    let folders = [EncoderFolder { folder: checkpoint("clip"), settings: VisionSettings::default() }];
    let mut stage = ImageEncoder::load(&folders, limits, Codec::single_object()).unwrap();
    let picture = |number: usize, side: u32| {
        let colour = Rgba([number as u8, 2, 3, 200]);
        let picture = DynamicImage::from(RgbaImage::from_pixel(side, side, colour)).to_rgba16();
        let mut png = Cursor::new(Vec::new());
        DynamicImage::from(picture).write_to(&mut png, ImageFormat::Png).unwrap();
        record(Topic::Images, number, png.into_inner())
    };
    let batch: Vec<_> = (0..24).map(|number| picture(number, 2000)).collect();
    growth(&mut stage, &[picture(0, 64)], &batch)
}

fn generator() -> usize {
    let params = GenerationParams { steps: 1, ..GenerationParams::default() };
    let codec = Codec::single_object();
    let mut stage = Generator::load(&checkpoint("sd2"), Precision::F32, params, 16, codec).unwrap();
    let batch: Vec<_> = (0..4).map(|number| prompt(number, longest(number), (0..64).collect())).collect();
    growth(&mut stage, &[prompt(0, "a red star".into(), vec![1])], &batch)
}

/// A vector of length 1.
fn vector(dim: usize, seed: usize) -> Vec<f32> {
    let raw: Vec<f32> = (0..dim).map(|at| ((at * 37 + seed * 101 + 7) as f32).sin()).collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.into_iter().map(|x| x / length).collect()
}

fn attributes() -> BTreeMap<String, String> {
    BTreeMap::from([("notes".to_owned(), "n".repeat(ATTRIBUTES_MAX_BYTES - 100))])
}

/// Starts an empty index.
fn serve(runtime: &Runtime, folder: &Path) -> (EmbeddedIndex, PromptIndex) {
    let served = runtime.block_on(EmbeddedIndex::start(folder, 0)).unwrap();
    let index = connect(runtime, &served.url());
    (served, index)
}

fn layout() -> Layout {
    Layout::new(CLIP, CLIP_DIM, MINILM)
}

fn connect(runtime: &Runtime, url: &str) -> PromptIndex {
    let index = runtime.block_on(PromptIndex::connect(url, ConnectOptions::default())).unwrap();
    runtime.block_on(index.ensure(&layout())).unwrap();
    index
}

fn point(number: usize) -> PromptPoint {
    PromptPoint {
        prompt_id: prompt_id(&longest(number)),
        text: longest(number),
        sources: vec!["test".into()],
        created_at_ms: 1,
        version: None,
        attributes: attributes(),
        minilm: vector(MINILM_DIM, number),
        clip: vector(CLIP_DIM, number),
    }
}

fn indexer(url: &str) -> usize {
    let runtime = Runtime::new().unwrap();
    let (index, codec) = (connect(&runtime, url), Codec::single_object());
    let mut stage = Indexer::open(index, layout(), codec, runtime.handle().clone()).unwrap();
    let named = |model: &str, values: Vec<f32>| NamedVector { model: model.into(), values };
    let embedding = |number: usize, text: String, attributes: BTreeMap<String, String>| {
        let embedding = PromptEmbedding {
            prompt_id: prompt_id(&text),
            text,
            source: "test".into(),
            attributes,
            created_at_ms: 1,
            minilm: named(MINILM, vector(MINILM_DIM, number)),
            clip: named(CLIP, vector(CLIP_DIM, number)),
        };
        let value = Codec::single_object().encode("prompt-embeddings.v1", &embedding).unwrap();
        record(Topic::PromptEmbeddings, number, value)
    };
    let batch: Vec<_> = (0..64).map(|number| embedding(number, longest(number), attributes())).collect();
    growth(&mut stage, &[embedding(99, "a red star".into(), BTreeMap::new())], &batch)
}

fn predictor(url: &str) -> usize {
    let runtime = Runtime::new().unwrap();
    let index = connect(&runtime, url);
    let names =
        Encoder { pictures: CLIP.into(), prompts: CLIP.into(), dims: CLIP_DIM, minilm: MINILM.into() };
    let heads = HeadStore::new(HeadRequirements {
        encoder: CLIP.into(),
        dims: CLIP_DIM,
        minilm: MINILM.into(),
        folders: Vec::new(),
    });
    let settings = Settings { k: 120, retrieval: Retrieval::Clip, neighbours: 10, head_folders: Vec::new() };
    let (codec, handle) = (Codec::single_object(), runtime.handle().clone());
    let mut stage = Predictor::new(index, heads, names, settings, codec, handle);
    let embedding = |number: usize| {
        let embedding = ImageEmbedding {
            image_id: prompt_id(&number.to_string()),
            vectors: vec![NamedVector { model: CLIP.into(), values: vector(CLIP_DIM, 2_000 + number) }],
            ..ImageEmbedding::default()
        };
        let value = Codec::single_object().encode("image-embeddings.v1", &embedding).unwrap();
        record(Topic::ImageEmbeddings, number, value)
    };
    let batch: Vec<_> = (0..64).map(embedding).collect();
    growth(&mut stage, &[embedding(99)], &batch)
}
