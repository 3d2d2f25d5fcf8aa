//! Tests of hostile model folders: whatever the settings and the headers of the weights are, a
//! network loads and runs, or is refused with an error, without a panic and within bounded memory.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::RgbImage;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use unprompt_models::ModelError;
use unprompt_models::encoder::{TextTower, VisionSettings, VisionTower};
use unprompt_models::minilm::Engine;
use unprompt_models::stable_diffusion::{GenerationParams, GenerationRequest, StableDiffusion};

use crate::common::reference_folder;

/// One folder of each architecture that the references have.
const FOLDERS: [&str; 4] = ["blip2-retrieval", "clip", "convnext", "eva02-l"];

/// The limit for a folder of less than 200 kB and one picture.
const MEMORY: u64 = 256 << 20;

/// The values that replace one value of a settings file. Arithmetic overflows at 2^31, 2^32 and
/// 2^53.
fn replacements() -> Vec<Value> {
    let numbers = [0u64, 1, 3, 100_000, 1 << 31, 1 << 32, 1 << 53, u64::MAX];
    let others = [json!(-1), json!(0.5), json!(1e308), json!(-1e-300), json!(null), json!(""), json!([])];
    numbers
        .into_iter()
        .map(Value::from)
        .chain(others)
        .chain([json!({}), json!([1, 2, 3]), json!(true)])
        .collect()
}

/// The JSON pointers of all values.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(values) => values.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(key, child)| pointers(child, &format!("{at}/{key}")));
    [at.to_owned()].into_iter().chain(below).collect()
}

/// Copies a folder recursively.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn copied(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(from, folder.path());
    folder
}

/// Loads both towers and embeds with them.
fn embed(folder: &Path) -> Result<(), ModelError> {
    let settings = VisionSettings { engine: Engine::Candle, ..VisionSettings::default() };
    let vision = VisionTower::load(folder, &settings).and_then(|tower| {
        let pixels = tower.preprocess(&RgbImage::new(40, 30));
        tower.embed(&[&pixels])
    });
    let text = TextTower::load(folder, Engine::Candle).and_then(|tower| tower.embed(&["a cat, watercolour"]));
    vision.and(text).map(|_| ())
}

/// Loads Stable Diffusion and draws a picture.
fn draw(folder: &Path) -> Result<(), ModelError> {
    let request = GenerationRequest { prompt: "a red circle".to_owned(), seed: 1 };
    let params = GenerationParams { steps: 1, ..GenerationParams::default() };
    StableDiffusion::load(folder)?.generate(&[request], &params).map(|_| ())
}

/// Returns the fault of using a folder: a panic, or too much memory.
fn fault(used: fn(&Path) -> Result<(), ModelError>, folder: &Path) -> Option<String> {
    let mut panic = None;
    let held = allocation_counter::measure(|| {
        panic = catch_unwind(AssertUnwindSafe(|| used(folder))).err();
    });
    if let Some(panic) = panic {
        let said = panic.downcast_ref::<String>().cloned();
        return Some(said.unwrap_or_else(|| "it panicked".to_owned()));
    }
    (held.bytes_max > MEMORY).then(|| format!("it used {} MiB", held.bytes_max >> 20))
}

/// Uses the folder with every value of its settings in `files` replaced in turn.
fn settings_are_safe(from: &Path, files: &[&str], used: fn(&Path) -> Result<(), ModelError>) {
    let mut faults = Vec::new();
    let folder = copied(from);
    used(folder.path()).unwrap_or_else(|error| panic!("{} itself: {error}", from.display()));
    for file in files {
        let path = folder.path().join(file);
        let Ok(original) = fs::read(&path) else { continue };
        let settings: Value = serde_json::from_slice(&original).unwrap();
        for pointer in pointers(&settings, "") {
            for replacement in replacements() {
                let mut changed = settings.clone();
                *changed.pointer_mut(&pointer).unwrap() = replacement.clone();
                fs::write(&path, changed.to_string()).unwrap();
                let fault = fault(used, folder.path());
                faults.extend(fault.map(|fault| format!("{file}{pointer} = {replacement}: {fault}")));
            }
        }
        fs::write(&path, &original).unwrap();
    }
    assert!(faults.is_empty(), "{}: {} faults:\n{}", from.display(), faults.len(), faults.join("\n"));
}

#[test]
fn encoders_with_settings_of_any_value_load_or_are_refused() {
    for name in FOLDERS {
        let files = ["config.json", "open_clip_config.json", "preprocessor_config.json"];
        settings_are_safe(&reference_folder().join("encoders").join(name), &files, embed);
    }
}

#[test]
fn stable_diffusion_with_settings_of_any_value_loads_or_is_refused() {
    let files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
    ];
    settings_are_safe(&reference_folder().join("sd-epsilon"), &files, draw);
}

#[test]
fn a_tower_of_too_many_patches_is_refused_before_its_tensors_are_read() {
    let folder = copied(&reference_folder().join("encoders/eva02-l"));
    let path = folder.path().join("config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // Without learned positions, nothing in the weights has the size of the grid.
    settings["model_args"]["use_abs_pos_emb"] = json!(false);
    settings["model_args"]["img_size"] = json!(2048);
    fs::write(&path, settings.to_string()).unwrap();
    assert_eq!(fault(embed, folder.path()), None);
    let error = embed(folder.path()).unwrap_err().to_string();
    assert!(error.contains("128 patches"), "{error}");
}

#[test]
fn weights_with_changed_headers_load_or_are_refused() {
    let folder = copied(&reference_folder().join("encoders/clip"));
    let path = folder.path().join("model.safetensors");
    let original = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(original[..8].try_into().unwrap()) as usize;
    // Sizes, offsets and types consist mostly of digits.
    let byte = prop_oneof![3 => b'0'..=b'9', 1 => any::<u8>()];
    let edits = proptest::collection::vec((any::<Index>(), byte), 1..4);
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&edits, |edits| {
        let mut changed = original.clone();
        edits.iter().for_each(|(place, byte)| changed[place.index(header)] = *byte);
        fs::write(&path, changed).unwrap();
        prop_assert_eq!(fault(embed, folder.path()), None);
        Ok(())
    });
    checked.unwrap();
}
