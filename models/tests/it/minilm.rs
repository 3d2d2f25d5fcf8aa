//! MiniLM on its real weights, on both engines.

use unprompt_models::metrics::cosine;
use unprompt_models::minilm::{Engine, MiniLm};

use crate::common;

fn engines() -> Vec<MiniLm> {
    let folder = common::minilm_folder();
    let mut engines = vec![MiniLm::load(&folder, Engine::Candle).unwrap()];
    if cfg!(feature = "onnx") {
        engines.push(MiniLm::load(&folder, Engine::Onnx).unwrap());
    }
    engines
}

#[test]
fn results_are_in_the_order_of_the_texts_and_of_unit_norm() {
    let words = "a red fox jumps over the quiet river at night ".repeat(30);
    let texts: Vec<&str> = (0..60).map(|i| &words[..(i * 37) % 1200 + 1]).collect();
    for mut minilm in engines() {
        let together = minilm.embed(&texts).unwrap();
        assert_eq!(together.len(), texts.len());
        for i in [0, 7, 31, 59] {
            let alone = minilm.embed(&texts[i..=i]).unwrap();
            assert!(cosine(&alone[0], &together[i]) > 0.99999, "{} {i}", minilm.engine_name());
        }
        for vector in &together {
            assert_eq!(vector.len(), MiniLm::DIMS);
            let norm: f32 = vector.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-4);
        }
    }
}

#[test]
fn nothing_empty_and_far_too_long_are_taken() {
    let long = "star ".repeat(2000);
    let longer = format!("{long} and a cat");
    for mut minilm in engines() {
        assert!(minilm.embed(&[]).unwrap().is_empty());
        let vectors = minilm.embed(&["", &long, &longer]).unwrap();
        assert!(vectors.iter().flatten().all(|value| value.is_finite()));
        // Beyond 256 tokens nothing counts.
        assert!(cosine(&vectors[1], &vectors[2]) > 0.999999);
    }
}

#[test]
fn the_engines_share_one_revision() {
    let revisions: Vec<String> = engines().iter().map(|minilm| minilm.revision().to_string()).collect();
    assert!(revisions[0].starts_with("all-MiniLM-L6-v2@"));
    assert!(revisions.iter().all(|revision| *revision == revisions[0]));
}

/// Links everything but the ONNX files, so that the folder is a whole one for candle only.
fn folder_without_onnx() -> tempfile::TempDir {
    let (from, to) = (common::minilm_folder(), tempfile::tempdir().unwrap());
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ] {
        std::os::unix::fs::symlink(from.join(name), to.path().join(name)).unwrap();
    }
    to
}

#[test]
fn without_onnx_runtime_auto_is_candle_and_onnx_says_what_to_do() {
    let folder = folder_without_onnx();
    assert_eq!(MiniLm::load(folder.path(), Engine::Auto).unwrap().engine_name(), "candle");
    let error = MiniLm::load(folder.path(), Engine::Onnx).unwrap_err().to_string();
    let expected = if cfg!(feature = "onnx") { "model.onnx" } else { "onnx feature" };
    assert!(error.contains(expected), "{error}");
}

#[cfg(feature = "onnx")]
#[test]
fn with_onnx_runtime_auto_is_onnx() {
    assert_eq!(MiniLm::load(&common::minilm_folder(), Engine::Auto).unwrap().engine_name(), "onnx");
}

#[test]
fn a_folder_that_is_no_model_is_named() {
    let error = MiniLm::load(std::path::Path::new("/nowhere"), Engine::Auto).unwrap_err().to_string();
    assert!(error.contains("/nowhere/sentence_bert_config.json"), "{error}");
}
