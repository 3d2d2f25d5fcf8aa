//! Tests of MiniLM on its real weights, on every engine of this build and platform.

use unprompt_models::metrics::cosine;
use unprompt_models::minilm::{Engine, MiniLm};

use crate::common;

fn engines() -> Vec<MiniLm> {
    let folder = common::minilm_folder();
    common::engines().into_iter().map(|engine| MiniLm::load(&folder, engine).unwrap()).collect()
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
fn empty_and_overlong_inputs_are_accepted() {
    let long = "star ".repeat(2000);
    let longer = format!("{long} and a cat");
    for mut minilm in engines() {
        assert!(minilm.embed(&[]).unwrap().is_empty());
        let vectors = minilm.embed(&["", &long, &longer]).unwrap();
        assert!(vectors.iter().flatten().all(|value| value.is_finite()));
        // Tokens beyond the 256th are ignored.
        assert!(cosine(&vectors[1], &vectors[2]) > 0.999999);
    }
}

#[test]
fn the_engines_share_one_revision() {
    let revisions: Vec<String> = engines().iter().map(|minilm| minilm.revision().to_string()).collect();
    assert!(revisions[0].starts_with("all-MiniLM-L6-v2@"));
    assert!(revisions.iter().all(|revision| *revision == revisions[0]));
}

#[test]
fn a_repeated_text_has_one_vector() {
    for mut minilm in engines() {
        let vectors = minilm.embed(&["a red star", "a blue house", "a red star"]).unwrap();
        assert_eq!(vectors[0], vectors[2]);
        assert!(cosine(&vectors[0], &vectors[1]) < 0.9, "{}", minilm.engine_name());
    }
}

#[test]
fn embedding_many_texts_at_once_matches_embedding_each_alone() {
    let texts: Vec<String> = (0..1_500).map(|at| format!("{} a fox", "very ".repeat(at % 7))).collect();
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    texts.dedup();
    let numbered: Vec<String> = (0..1_100).map(|at| format!("fox number {at}")).collect();
    texts.extend(numbered.iter().map(String::as_str));
    let mut minilm = MiniLm::load(&common::minilm_folder(), Engine::Auto).unwrap();
    let together = minilm.embed(&texts).unwrap();
    for at in [0, 6, 700, 1_499, texts.len() - 1] {
        let alone = minilm.embed(&texts[at..=at]).unwrap();
        assert!(cosine(&alone[0], &together[at]) > 0.9999, "{at}");
    }
}

/// The folder has only the files that sentence-transformers needs, and no ONNX file.
#[cfg(feature = "onnx")]
#[test]
fn a_folder_needs_no_onnx_file() {
    let (from, to) = (common::minilm_folder(), tempfile::tempdir().unwrap());
    let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    for name in names.into_iter().chain(["sentence_bert_config.json"]) {
        std::os::unix::fs::symlink(from.join(name), to.path().join(name)).unwrap();
    }
    assert_eq!(MiniLm::load(to.path(), Engine::Onnx).unwrap().engine_name(), "onnx");
}

#[cfg(not(feature = "onnx"))]
#[test]
fn without_onnx_runtime_auto_is_candle_and_onnx_says_what_to_do() {
    let folder = common::minilm_folder();
    let minilm = MiniLm::load(&folder, Engine::Auto).unwrap();
    assert_eq!(minilm.engine_name(), "candle");
    assert!(minilm.engine_reason().contains("onnx feature"), "{}", minilm.engine_reason());
    let error = MiniLm::load(&folder, Engine::Onnx).unwrap_err().to_string();
    assert!(error.contains("fetch_minilm.sh"), "{error}");
}

#[cfg(all(feature = "onnx", target_arch = "x86_64", target_os = "linux"))]
#[test]
fn auto_selects_the_first_working_engine() {
    let minilm = MiniLm::load(&common::minilm_folder(), Engine::Auto).unwrap();
    assert_eq!(minilm.engine_name(), "openvino");
    assert!(minilm.engine_reason().contains("first"), "{}", minilm.engine_reason());
}

#[cfg(feature = "onnx")]
#[test]
fn int8_is_close_to_f32_but_not_equal() {
    let folder = common::minilm_folder();
    let texts = common::texts("texts.json");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let exact = MiniLm::load(&folder, Engine::Onnx).unwrap().embed(&texts).unwrap();
    let int8 = MiniLm::load(&folder, Engine::Int8).unwrap().embed(&texts).unwrap();
    let cosines: Vec<f32> = exact.iter().zip(&int8).map(|(a, b)| cosine(a, b)).collect();
    let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
    assert!((0.985..0.9999).contains(&mean), "the mean cosine is {mean}");
}

/// If config.json contradicts the weights, the error names the folder.
#[cfg(feature = "onnx")]
#[test]
fn an_error_names_the_setting_that_does_not_fit_the_weights() {
    let (from, to) = (common::minilm_folder(), tempfile::tempdir().unwrap());
    for name in ["model.safetensors", "tokenizer.json", "sentence_bert_config.json"] {
        std::os::unix::fs::symlink(from.join(name), to.path().join(name)).unwrap();
    }
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    let said = ["\"intermediate_size\": 1536", "\"num_attention_heads\": 12", "\"num_attention_heads\": 12"];
    let wrong = ["\"intermediate_size\": 1000", "\"num_attention_heads\": 0", "\"num_attention_heads\": 7"];
    for ((said, wrong), named) in said.into_iter().zip(wrong).zip(["1000", "0 attention", "7 attention"]) {
        std::fs::write(to.path().join("config.json"), config.replace(said, wrong)).unwrap();
        for engine in [Engine::Candle, Engine::Onnx] {
            let error = MiniLm::load(to.path(), engine).unwrap_err().to_string();
            assert!(error.contains(&to.path().display().to_string()) && error.contains(named), "{error}");
        }
    }
}

#[test]
fn a_missing_model_folder_is_named_in_the_error() {
    let error = MiniLm::load(std::path::Path::new("/nowhere"), Engine::Auto).unwrap_err().to_string();
    assert!(error.contains("/nowhere/sentence_bert_config.json"), "{error}");
}

/// The published folder has both tokenizer.json and vocab.txt; older folders have only vocab.txt.
#[test]
fn vocab_txt_gives_the_vectors_that_tokenizer_json_gives() {
    let (published, older) = (common::minilm_folder(), tempfile::tempdir().unwrap());
    for name in [
        "config.json",
        "model.safetensors",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "vocab.txt",
    ] {
        std::os::unix::fs::symlink(published.join(name), older.path().join(name)).unwrap();
    }
    let texts = common::texts("texts.json");
    let special =
        ["[MASK] of a [CLS] fox [SEP] [PAD][UNK]", "[mask] ## ##s 日本 naïve\u{301}\u{0}\t\u{fffd} ©"];
    let texts: Vec<&str> = texts.iter().map(String::as_str).chain(special).collect();
    let vectors =
        |folder: &std::path::Path| MiniLm::load(folder, Engine::Candle).unwrap().embed(&texts).unwrap();
    assert_eq!(vectors(older.path()), vectors(&published));
}
