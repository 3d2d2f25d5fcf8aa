//! Model folders: their settings, and the headers of their weights.

mod edits;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;
use tempfile::TempDir;
use unprompt_models::ModelError;
use unprompt_models::encoder::{TextTower, VisionSettings, VisionTower};
use unprompt_models::minilm::Engine;
use unprompt_models::picture::RgbImage;
use unprompt_models::stable_diffusion::{GenerationParams, StableDiffusion};

use crate::Target;
use edits::Edit;

/// A schedule of 2^20 steps takes 8 MiB, twice; the rest are the symbols of a backtrace, which
/// candle's errors have where RUST_BACKTRACE is set.
const BASE_BYTES: u64 = 64 << 20;
/// JSON is parsed to trees a few times.
const FACTOR: u64 = 256;
/// The largest weights that a header may announce; they are zeros.
const WEIGHTS_MAX_BYTES: usize = 4 << 20;

/// A folder of the reference with some files changed. The first byte is the folder's number. The
/// rest is the content of the files in turn, each ended by a zero, and empty for the reference's;
/// weights are a header in JSON, to which its length and the data are added, or bytes. From number
/// 128 on, the rest is [`Edit`]s instead, so that the files stay JSON.
pub const MODEL_FOLDER: Target = Target {
    name: "model-folder",
    run: |input| {
        let Some((number, rest)) = input.split_first() else { return };
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = folders.len();
        let folder = &mut folders[usize::from(number % 128) % count];
        if *number < 128 {
            folder.replace(rest)
        } else {
            folder.edit(rest)
        }
        folder.load();
    },
    seeds,
    memory_bytes: |length| BASE_BYTES + FACTOR * length as u64,
};

/// A copy of a reference folder whose files are replaced.
struct Folder {
    place: TempDir,
    files: Vec<Replaced>,
    load: fn(&Path) -> Result<(), ModelError>,
}

/// A file with its content in the reference.
struct Replaced {
    path: PathBuf,
    reference: Vec<u8>,
    is_weights: bool,
    /// The settings, or the header of the weights.
    json: Value,
    is_changed: bool,
}

static FOLDERS: LazyLock<Mutex<Vec<Folder>>> = LazyLock::new(|| Mutex::new(folders()));

fn folders() -> Vec<Folder> {
    let transformers = ["config.json", "preprocessor_config.json", "model.safetensors"];
    let open_clip = ["open_clip_config.json", "config.json", "open_clip_model.safetensors"];
    let diffusers = [
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    vec![
        Folder::copied("encoders/clip", &transformers, load_encoder),
        Folder::copied("encoders/blip2-retrieval", &transformers, load_encoder),
        Folder::copied("encoders/eva02-l", &open_clip, load_encoder),
        Folder::copied("encoders/convnext", &open_clip, load_encoder),
        Folder::copied("sd-epsilon", &diffusers, load_diffusion),
    ]
}

impl Folder {
    fn copied(name: &str, files: &[&str], load: fn(&Path) -> Result<(), ModelError>) -> Self {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tests/reference").join(name);
        let place = tempfile::tempdir().expect("there is room for a folder");
        copy(&reference, place.path());
        let files = files.iter().map(|file| Replaced::of(place.path().join(file))).collect();
        Self { place, files, load }
    }

    fn replace(&mut self, contents: &[u8]) {
        let mut contents = contents.split(|byte| *byte == 0);
        for file in &mut self.files {
            file.replace(contents.next().unwrap_or_default());
        }
    }

    /// Makes each edit in its file.
    fn edit(&mut self, edits: &[u8]) {
        let (edits, count) = (Edit::all(edits), self.files.len());
        for (number, file) in self.files.iter_mut().enumerate() {
            let edits: Vec<_> = edits.iter().filter(|edit| edit.file(count) == number).collect();
            let mut json = file.json.clone();
            edits.iter().for_each(|edit| edit.apply(&mut json));
            if !edits.is_empty() && file.is_weights {
                edits::place_tensors(&mut json);
            }
            file.replace(&if edits.is_empty() { Vec::new() } else { json.to_string().into_bytes() });
        }
    }

    fn load(&self) {
        if let Err(error) = (self.load)(self.place.path()) {
            assert!(!error.to_string().is_empty());
        }
    }
}

impl Replaced {
    fn of(path: PathBuf) -> Self {
        let reference = fs::read(&path).expect("a file of the reference");
        let is_weights = path.extension().is_some_and(|extension| extension == "safetensors");
        let json = match reference.split_first_chunk::<8>() {
            Some((length, rest)) if is_weights => &rest[..u64::from_le_bytes(*length) as usize],
            _ => &reference,
        };
        let json = serde_json::from_slice(json).expect("the reference is JSON");
        Self { path, reference, is_weights, json, is_changed: false }
    }

    /// Writes the file, or the reference if there is no content.
    fn replace(&mut self, content: &[u8]) {
        if content.is_empty() && !self.is_changed {
            return;
        }
        self.is_changed = !content.is_empty();
        let written = match content.first() {
            None => fs::write(&self.path, &self.reference),
            Some(b'{') if self.is_weights => fs::write(&self.path, framed(content)),
            Some(_) => fs::write(&self.path, content),
        };
        written.expect("there is room for a file");
    }
}

/// Returns a safetensors file with this header.
fn framed(header: &[u8]) -> Vec<u8> {
    let data = serde_json::from_slice(header).map_or(0, |header| edits::data_bytes(&header));
    let length = (header.len() as u64).to_le_bytes();
    [&length, header, &vec![0; data.min(WEIGHTS_MAX_BYTES)]].concat()
}

fn load_encoder(folder: &Path) -> Result<(), ModelError> {
    let settings = VisionSettings { engine: Engine::Candle, ..VisionSettings::default() };
    let vision = VisionTower::load(folder, &settings).map(|tower| {
        if tower.side() <= 256 {
            let pixels = tower.preprocess(&RgbImage::new(40, 30));
            assert_eq!((pixels.height, pixels.width), (tower.side(), tower.side()));
        }
    });
    vision.and(TextTower::load(folder, Engine::Candle).map(|_| ()))
}

fn load_diffusion(folder: &Path) -> Result<(), ModelError> {
    let diffusion = StableDiffusion::load(folder)?;
    assert!(!diffusion.identity(&GenerationParams::default()).is_empty());
    Ok(())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("there is room for a folder");
    for entry in fs::read_dir(from).expect("a folder of the reference") {
        let path = entry.expect("a file of the reference").path();
        let target = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("there is room for a file");
        }
    }
}

/// Each folder with all its files, with its settings alone, and with edits.
fn seeds() -> Vec<Vec<u8>> {
    let folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut seeds = vec![b"\0not json\0\0\x09\0\0\0\0\0\0\0{}".to_vec()];
    for (number, folder) in folders.iter().enumerate() {
        let seed = |with_weights: bool| {
            let content = |file: &Replaced| match with_weights || !file.is_weights {
                true => file.json.to_string(),
                false => String::new(),
            };
            format!(
                "{}{}",
                char::from(number as u8),
                folder.files.iter().map(content).collect::<Vec<_>>().join("\0")
            )
        };
        seeds.extend([seed(true), seed(false)].map(String::into_bytes));
        seeds.push([&[128 + number as u8], edits::SEED].concat());
    }
    seeds
}
