//! `unprompt models`: a model from a hub that stalls, and other obstacles.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use unprompt_test_hub::{Hub, Mood, REVISION};

use crate::stack::{unprompt, wait_for};

/// The tiny world's CLIP as a model that only this hub and this manifest know.
struct Setup {
    hub: Hub,
    folder: tempfile::TempDir,
}

const MODEL: &str = "clip-of-ours";

impl Setup {
    fn new() -> Self {
        let setup = Self { hub: Hub::start(), folder: tempfile::tempdir().unwrap() };
        let checkpoint =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-world/checkpoints/clip");
        let pin = ["models", "pin", "--part", "clip", "--licence", "MIT", "--name", MODEL, "--hub"];
        let pinned =
            unprompt().args(pin).arg(format!("org/clip@{REVISION}")).arg(&checkpoint).output().unwrap();
        assert!(pinned.status.success(), "{}", String::from_utf8_lossy(&pinned.stderr));
        std::fs::write(setup.manifest(), &pinned.stdout).unwrap();
        let manifest: Value = serde_json::from_slice(&pinned.stdout).unwrap();
        for file in manifest["models"][0]["files"].as_array().unwrap() {
            let path = file["path"].as_str().unwrap();
            setup.hub.publish("org/clip", path, &std::fs::read(checkpoint.join(path)).unwrap());
        }
        setup
    }

    fn manifest(&self) -> PathBuf {
        self.folder.path().join("manifest.json")
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("models").join(MODEL)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = unprompt();
        command
            .args(["--data-dir".as_ref(), self.folder.path().join("data").as_os_str()])
            .args(args)
            .env("UNPROMPT_MODELS", self.folder.path().join("models"))
            .env("UNPROMPT__MODELS__MANIFEST", self.manifest())
            .env("HF_ENDPOINT", self.hub.endpoint())
            .env("HF_HOME", self.folder.path().join("huggingface"))
            .env_remove("HF_HUB_OFFLINE");
        command
    }

    /// Runs the command; returns whether it succeeded, and its output.
    fn says(&self, args: &[&str]) -> (bool, String) {
        let output = self.command(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn begin(&self) -> Child {
        self.command(&["models", "pull", MODEL]).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The bytes of a partly downloaded file.
    fn begun(&self) -> u64 {
        let staging = self.folder.path().join("models/.pull").join(MODEL);
        let files = std::fs::read_dir(staging).into_iter().flatten().flatten();
        let parts = files.filter(|file| file.path().extension().is_some_and(|end| end == "part"));
        parts.map(|file| file.metadata().unwrap().len()).max().unwrap_or(0)
    }
}

/// The path of the MiniLM that `make setup` fetched.
pub fn minilm() -> PathBuf {
    let cache = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/unprompt/models");
    std::env::var_os("UNPROMPT_MODELS").map_or_else(cache, PathBuf::from).join("all-MiniLM-L6-v2")
}

#[test]
fn an_interrupted_pull_resumes_and_a_damaged_model_is_refused() {
    let setup = Setup::new();
    let (ok, said) = setup.says(&["models", "path", MODEL]);
    assert!(!ok && said.contains("model.safetensors") && said.contains("models pull clip-of-ours"), "{said}");

    setup.hub.set_mood(Mood::StallsAfter(50_000));
    let stopped = setup.begin();
    wait_for("something to come", || (setup.begun() >= 40_000).then_some(()));
    assert!(Command::new("kill").args(["-INT", &stopped.id().to_string()]).status().unwrap().success());
    let ended = stopped.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && said.contains("resumes where it stopped"), "{said}");

    let before = setup.begun();
    setup.hub.take_asked();
    let mut killed = setup.begin();
    wait_for("more to come", || (setup.begun() > before).then_some(()));
    killed.kill().unwrap();
    killed.wait().unwrap();

    setup.hub.set_mood(Mood::Serves);
    let (ok, said) = setup.says(&["models", "pull", MODEL]);
    assert!(ok, "{said}");
    let asked = setup.hub.take_asked();
    assert!(asked.iter().any(|line| line.ends_with(&format!("bytes={before}-"))), "{before}: {asked:?}");
    let (ok, said) = setup.says(&["models", "verify"]);
    assert!(ok && said.contains("are as published"), "{said}");
    let (_, listed) = setup.says(&["--json", "models", "list"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let of = |name: &str| {
        listed.as_array().unwrap().iter().find(|model| model["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!((of(MODEL), of("clip-vit-large-patch14")), ("here".into(), "absent".into()));
    let (ok, said) = setup.says(&["models", "path", MODEL]);
    assert!(ok && Path::new(said.trim_end()) == setup.place(), "{said}");

    let config = setup.place().join("config.json");
    let right = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, right.replacen(' ', "\t", 1)).unwrap();
    let minilm = minilm();
    let mut up = setup.command(&["up"]);
    up.env("UNPROMPT__MODELS__CLIP", MODEL).env("UNPROMPT__MODELS__MINILM", &minilm);
    let refused = up.output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("config.json") && said.contains("wrong checksum"),
        "{said}"
    );
    assert!(!said.contains("unprompt is up"), "{said}");

    for (sd2, wanted) in [(MODEL, "is for clip"), ("no-such-model", "there is no model")] {
        let mut up = setup.command(&["up"]);
        up.env("UNPROMPT__MODELS__SD2", sd2).env("UNPROMPT__MODELS__MINILM", &minilm);
        let refused = up.output().unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            !refused.status.success() && said.contains(wanted) && !said.contains("unprompt is up"),
            "{said}"
        );
    }

    let (ok, said) = setup.says(&["models", "pull", MODEL]);
    assert!(ok && said.contains("1 files fetched"), "{said}");
    let mut doctor = setup.command(&["doctor"]);
    doctor.env("UNPROMPT__MODELS__CLIP", MODEL).env("UNPROMPT__MODELS__MINILM", &minilm);
    let said = String::from_utf8(doctor.output().unwrap().stdout).unwrap();
    assert!(said.lines().any(|line| line.starts_with('✔') && line.contains(MODEL)), "{said}");
}
