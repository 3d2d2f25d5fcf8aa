//! Identities never change. The golden file comes from Python's uuid and unicodedata, not from this
//! crate.

use proptest::prelude::*;
use serde_json::Value as Json;
use unprompt_schemas::Uuid;
use unprompt_schemas::identity::{
    NAMESPACE, generated_image_id, image_id_at, image_id_of, normalise, prompt_id,
};

fn golden() -> Json {
    serde_json::from_str(include_str!("../golden/identities.json")).unwrap()
}

fn cases(name: &str) -> Vec<Json> {
    golden()[name].as_array().unwrap().clone()
}

fn text<'a>(case: &'a Json, name: &str) -> &'a str {
    case[name].as_str().unwrap()
}

fn id(case: &Json, name: &str) -> Uuid {
    text(case, name).parse().unwrap()
}

#[test]
fn the_identity_namespace_never_changes() {
    assert_eq!(NAMESPACE, id(&golden(), "namespace"));
}

#[test]
fn prompts_keep_their_identity() {
    for case in cases("prompts") {
        assert_eq!(normalise(text(&case, "text")), text(&case, "normal"), "{}", case["claim"]);
        assert_eq!(prompt_id(text(&case, "text")), id(&case, "prompt_id"), "{}", case["claim"]);
    }
}

#[test]
fn composed_and_decomposed_text_is_one_prompt_but_case_matters() {
    assert_eq!(prompt_id("caf\u{e9}"), prompt_id(" cafe\u{301}\n"));
    assert_ne!(prompt_id("a fox"), prompt_id("A fox"));
}

#[test]
fn record_positions_keep_their_identity() {
    for case in cases("places") {
        let partition = i32::try_from(case["partition"].as_i64().unwrap()).unwrap();
        let found = image_id_at(text(&case, "topic"), partition, case["offset"].as_i64().unwrap());
        assert_eq!(found, id(&case, "image_id"), "{case}");
    }
}

#[test]
fn events_keep_their_identity() {
    for case in cases("events") {
        assert_eq!(image_id_of(text(&case, "ce_id")), id(&case, "image_id"), "{case}");
    }
}

#[test]
fn generated_pictures_keep_their_identity() {
    for case in cases("generated") {
        let seed = case["seed"].as_u64().unwrap();
        let revision = text(&case, "model_revision");
        let found = generated_image_id(id(&case, "prompt_id"), revision, seed, text(&case, "parameters"));
        assert_eq!(found, id(&case, "image_id"), "{case}");
    }
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing(text in any::<String>()) {
        let normal = normalise(&text);
        prop_assert_eq!(normalise(&normal), normal);
    }

    #[test]
    fn white_space_between_and_around_words_does_not_matter(
        words in proptest::collection::vec("[a-z]{1,5}", 1..5),
        spaces in proptest::collection::vec("[ \t\n\u{a0}\u{3000}]{1,3}", 6),
    ) {
        let mut spaced = spaces[5].clone();
        for (word, space) in words.iter().zip(&spaces) {
            spaced.push_str(word);
            spaced.push_str(space);
        }
        prop_assert_eq!(prompt_id(&spaced), prompt_id(&words.join(" ")));
    }
}
