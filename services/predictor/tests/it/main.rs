//! Which announced heads the predictor accepts.

mod stage;

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use unprompt_models::head::{RidgeHead, Samples};
use unprompt_predictor::{HeadRequirements, HeadStore, RefusedHead};
use unprompt_schemas::records::Head;

const ENCODER: &str = "tiny-clip@0123456789ab";
const MINILM: &str = "minilm@1";
/// The length of the vectors that the heads of [`head_in`] take.
const CLIP_DIM: usize = 3;

/// A store for heads of [`head_in`].
fn heads_in(folder: &Path) -> HeadStore {
    let (encoder, minilm) = (ENCODER.into(), MINILM.into());
    HeadStore::new(HeadRequirements { encoder, dims: CLIP_DIM, minilm, folders: vec![folder.to_owned()] })
}

/// A real head, trained on four points, in a file.
fn head_in(folder: &Path, name: &str, created_at_ms: i64) -> Head {
    let inputs: Vec<Vec<f32>> =
        (0..4).map(|at| (0..3).map(|i| if i == at % 3 { 1.0 } else { 0.1 }).collect()).collect();
    let targets: Vec<Vec<f32>> =
        (0..4).map(|at| (0..384).map(|i| if i == at { 1.0 } else { 0.0 }).collect()).collect();
    let samples = || Samples {
        inputs: inputs.iter().map(Vec::as_slice).collect(),
        targets: targets.iter().map(Vec::as_slice).collect(),
    };
    let (ridge, _) = RidgeHead::fit_with_validation(&samples(), &samples(), &[0.1, 1.0]).unwrap();
    let bytes = ridge.to_bytes(ENCODER, MINILM).unwrap();
    let path = folder.join(format!("{name}.safetensors"));
    std::fs::write(&path, &bytes).unwrap();
    Head {
        name: name.into(),
        path: path.display().to_string(),
        sha256: format!("{:x}", Sha256::digest(&bytes)),
        encoder: ENCODER.into(),
        minilm: MINILM.into(),
        metrics: BTreeMap::new(),
        blend_weight: 0.5,
        calibration: Vec::new(),
        created_at_ms,
    }
}

#[test]
fn the_last_announced_head_is_used_whatever_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let heads = heads_in(folder.path());
    assert_eq!(heads.current_name(), None);
    heads.announce(head_in(folder.path(), "second", i64::MAX)).unwrap();
    assert_eq!(heads.current_name().as_deref(), Some("second"));
    heads.announce(head_in(folder.path(), "third", 3)).unwrap();
    assert_eq!(heads.current_name().as_deref(), Some("third"));
    heads.withdraw("second");
    assert_eq!(heads.current_name().as_deref(), Some("third"), "only the head in use can be withdrawn");
    heads.withdraw("third");
    assert_eq!(heads.current_name(), None);
}

#[test]
fn an_unusable_head_is_refused_and_the_current_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let heads = heads_in(folder.path());
    heads.announce(head_in(folder.path(), "good", 1)).unwrap();

    let other = Head { encoder: "other@1".into(), ..head_in(folder.path(), "other", 2) };
    assert!(matches!(heads.announce(other), Err(RefusedHead::OtherEncoder { .. })));
    let gone =
        Head { path: folder.path().join("gone").display().to_string(), ..head_in(folder.path(), "gone", 2) };
    assert!(matches!(heads.announce(gone), Err(RefusedHead::Unreadable { .. })));
    let changed = head_in(folder.path(), "changed", 2);
    let mut bytes = std::fs::read(&changed.path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&changed.path, bytes).unwrap();
    assert!(matches!(heads.announce(changed), Err(RefusedHead::OtherContent { .. })));
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, b"no safetensors").unwrap();
    let malformed = Head {
        path: garbage.display().to_string(),
        sha256: format!("{:x}", Sha256::digest(b"no safetensors")),
        ..head_in(folder.path(), "malformed", 2)
    };
    assert!(matches!(heads.announce(malformed), Err(RefusedHead::Malformed { .. })));
    let other = Head { minilm: "any".into(), ..head_in(folder.path(), "other", 2) };
    assert!(matches!(heads.announce(other), Err(RefusedHead::OtherMiniLm { .. })));
    for weight in [f64::NAN, -0.1, 1e9] {
        let heavy = Head { blend_weight: weight, ..head_in(folder.path(), "heavy", 2) };
        assert!(matches!(heads.announce(heavy), Err(RefusedHead::Malformed { .. })), "{weight}");
    }
    let uncalibrated = Head { calibration: vec![f64::NAN; 17], ..head_in(folder.path(), "nan", 2) };
    assert!(matches!(heads.announce(uncalibrated), Err(RefusedHead::Malformed { .. })));
    assert_eq!(heads.current_name().as_deref(), Some("good"));
}

#[test]
fn a_head_of_other_dimensions_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (encoder, minilm, folders) = (ENCODER.into(), MINILM.into(), vec![folder.path().to_owned()]);
    let heads = HeadStore::new(HeadRequirements { encoder, dims: CLIP_DIM + 1, minilm, folders });
    let refused = heads.announce(head_in(folder.path(), "narrow", 1)).unwrap_err().to_string();
    assert!(refused.contains("3 values to 384, not 4 to 384"), "{refused}");
}

#[test]
fn only_a_regular_file_in_a_folder_for_heads_is_read() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let heads = heads_in(folder.path());
    let at = |path: &Path| Head { path: path.display().to_string(), ..head_in(folder.path(), "head", 1) };

    assert!(matches!(heads.announce(at(Path::new("/dev/zero"))), Err(RefusedHead::OutsideFolders { .. })));
    let outside = head_in(elsewhere.path(), "outside", 1);
    assert!(matches!(heads.announce(outside.clone()), Err(RefusedHead::OutsideFolders { .. })));
    let link = folder.path().join("link.safetensors");
    std::os::unix::fs::symlink(&outside.path, &link).unwrap();
    assert!(matches!(heads.announce(at(&link)), Err(RefusedHead::OutsideFolders { .. })));
    let above =
        folder.path().join("..").join(elsewhere.path().file_name().unwrap()).join("outside.safetensors");
    assert!(matches!(heads.announce(at(&above)), Err(RefusedHead::OutsideFolders { .. })));

    // Opening a FIFO waits for its writer, and reading /dev/zero never ends.
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(matches!(heads.announce(at(&fifo)), Err(RefusedHead::NoFile { .. })));
    assert!(matches!(heads.announce(at(folder.path())), Err(RefusedHead::NoFile { .. })));
    let large = folder.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    assert!(matches!(heads.announce(at(&large)), Err(RefusedHead::TooLarge { .. })));
    assert_eq!(heads.current_name(), None);
}
