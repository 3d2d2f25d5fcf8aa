//! The text-encoder as a plain type: prompts in, both vectors out.

use std::path::{Path, PathBuf};

use unprompt_models::minilm::Engine;
use unprompt_schemas::cloudevents::names;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::{Prompt, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Outcome, Stage};
use unprompt_text_encoder::TextEncoder;

fn encoder() -> TextEncoder {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-world/checkpoints/clip");
    let models = std::env::var_os("UNPROMPT_MODELS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/unprompt/models");
    let minilm = models.unwrap_or_else(home).join("all-MiniLM-L6-v2");
    TextEncoder::load(&minilm, &clip, Engine::Auto, Codec::single_object()).unwrap()
}

fn record(key: Option<&str>, value: Option<&[u8]>) -> InputRecord {
    InputRecord {
        timestamp_ms: 42,
        key: key.map(|key| key.as_bytes().to_vec()),
        value: value.map(<[u8]>::to_vec),
        ..InputRecord::new(Topic::Prompts)
    }
}

fn embedding(outcome: &Outcome) -> PromptEmbedding {
    match outcome {
        Outcome::Outputs(outputs) => {
            Codec::single_object().decode(outputs[0].value.as_deref().unwrap()).unwrap()
        }
        Outcome::Rejected(rejection) => panic!("rejected: {rejection:?}"),
    }
}

#[test]
fn avro_and_plain_text_prompts_get_the_same_vectors_and_bad_ones_are_rejected_alone() {
    let prompt = Prompt {
        text: "a red star on a beach".into(),
        source: "s".into(),
        seeds: vec![],
        attributes: Default::default(),
    };
    let avro = Codec::single_object().encode("prompts.v1", &prompt).unwrap();
    let batch = [
        record(None, Some(&avro)),
        record(None, Some(b"   ")),
        record(None, Some(b"a red star on a beach")),
        record(None, Some(&[0xFF, 0xFE, 0x00])),
        record(None, Some(b"a blue house in the snow")),
    ];
    let outcomes = encoder().process(&batch).unwrap();
    assert!(matches!(outcomes[1], Outcome::Rejected(_)) && matches!(outcomes[3], Outcome::Rejected(_)));
    let (first, same, other) = (embedding(&outcomes[0]), embedding(&outcomes[2]), embedding(&outcomes[4]));
    assert_eq!(first.prompt_id, prompt_id(&prompt.text));
    assert_eq!((first.prompt_id, first.source.as_str(), first.created_at_ms), (same.prompt_id, "s", 42));
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    assert_eq!(first.minilm.values.len(), 384);
    assert!(cosine(&first.minilm.values, &same.minilm.values) > 0.9999);
    assert!(cosine(&first.clip.values, &same.clip.values) > 0.9999);
    assert!(cosine(&first.minilm.values, &other.minilm.values) < 0.9, "another prompt has another vector");
}

#[test]
fn many_long_prompts_are_encoded_in_slices_and_usual_ones_at_once() {
    let mut encoder = encoder();
    let long: Vec<_> =
        (0..40).map(|n| record(None, Some(format!("{n} {}", "so long ".repeat(8_000)).as_bytes()))).collect();
    let first = encoder.process(&long).unwrap().len();
    assert!((1..40).contains(&first), "{first} outcomes at once");
    assert_eq!(encoder.process(&long[first..]).unwrap().len(), 40 - first);
    let usual: Vec<_> = (0..40).map(|n| record(None, Some(format!("{n} red stars").as_bytes()))).collect();
    assert_eq!(encoder.process(&usual).unwrap().len(), 40);
}

#[test]
fn a_null_value_deletes_by_id_and_needs_one() {
    let id = prompt_id("gone").to_string();
    let header = |partition: &str| (names::SOURCE_PARTITION.to_owned(), partition.as_bytes().to_vec());
    let deletion = InputRecord { partition: 7, headers: vec![header("1")], ..record(Some(&id), None) };
    let outcomes =
        encoder().process(&[deletion, record(Some("not an id"), None), record(None, None)]).unwrap();
    match &outcomes[0] {
        Outcome::Outputs(outputs) => {
            assert_eq!((outputs[0].key.as_deref(), outputs[0].value.as_deref()), (Some(id.as_bytes()), None));
            assert_eq!(outputs[0].headers, [header("7")], "its own partition, not the one in its header");
        }
        rejected => panic!("{rejected:?}"),
    }
    assert!(matches!(&outcomes[1], Outcome::Rejected(rejection) if rejection.code == "delete-without-id"));
    assert!(matches!(outcomes[2], Outcome::Rejected(_)));
    let rejected_before = ("unprompt-dead-letter-timestamp".to_owned(), b"5".to_vec());
    let again = InputRecord { headers: vec![rejected_before], ..record(Some(&id), None) };
    let Outcome::Outputs(outputs) = &encoder().process(&[again]).unwrap()[0] else { panic!("rejected") };
    assert_eq!(outputs[0].headers, [], "it is not at its place in the order");
}
