//! Which announced heads the predictor accepts.

mod stage;

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use unprompt_models::head::{RidgeHead, Samples};
use unprompt_predictor::{HeadStore, RefusedHead};
use unprompt_schemas::records::Head;

const ENCODER: &str = "tiny-clip@0123456789ab";

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
    let bytes = ridge.to_bytes(ENCODER, "minilm@1").unwrap();
    let path = folder.join(format!("{name}.safetensors"));
    std::fs::write(&path, &bytes).unwrap();
    Head {
        name: name.into(),
        path: path.display().to_string(),
        sha256: format!("{:x}", Sha256::digest(&bytes)),
        encoder: ENCODER.into(),
        minilm: "minilm@1".into(),
        metrics: BTreeMap::new(),
        blend_weight: 0.5,
        calibration: Vec::new(),
        created_at_ms,
    }
}

#[test]
fn a_newer_head_is_taken_and_an_older_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let heads = HeadStore::new(ENCODER);
    assert_eq!(heads.current_name(), None);
    heads.announce(head_in(folder.path(), "second", 2)).unwrap();
    heads.announce(head_in(folder.path(), "first", 1)).unwrap();
    assert_eq!(heads.current_name().as_deref(), Some("second"));
    heads.announce(head_in(folder.path(), "third", 3)).unwrap();
    assert_eq!(heads.current_name().as_deref(), Some("third"));
    heads.withdraw("second");
    assert_eq!(heads.current_name().as_deref(), Some("third"), "only the head in use can be withdrawn");
    heads.withdraw("third");
    assert_eq!(heads.current_name(), None);
}

#[test]
fn a_head_for_another_encoder_or_with_other_content_is_refused_and_the_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let heads = HeadStore::new(ENCODER);
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
    assert_eq!(heads.current_name().as_deref(), Some("good"));
}
