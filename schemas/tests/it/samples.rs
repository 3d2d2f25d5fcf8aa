//! Records to test with: one fixed record of each type, and a strategy for arbitrary ones.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use unprompt_schemas::Uuid;
use unprompt_schemas::records::*;

/// A fixed record with every optional field set. The golden files hold exactly these.
pub trait Sample: Record + PartialEq {
    fn sample() -> Self;
}

const CREATED_AT_MS: i64 = 1_795_474_200_000;

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0123_4567_89ab_4def_8123_0000_0000_0000 + number)
}

fn vector(model: &str, values: &[f32]) -> NamedVector {
    NamedVector { model: model.to_owned(), values: values.to_vec() }
}

fn attributes() -> BTreeMap<String, String> {
    BTreeMap::from([("lang".to_owned(), "en".to_owned()), ("style".to_owned(), "oil".to_owned())])
}

impl Sample for Prompt {
    fn sample() -> Self {
        Prompt {
            text: "a red fox in the snow, café 🦊".to_owned(),
            source: "diffusiondb".to_owned(),
            seeds: vec![0, -1, i64::MAX],
            attributes: attributes(),
        }
    }
}

impl Sample for ImageEmbedding {
    fn sample() -> Self {
        ImageEmbedding {
            image_id: id(1),
            prompt_id: Some(id(2)),
            vectors: vec![vector("clip@0123456789ab", &[0.6, -0.8, 0.0]), vector("empty@0", &[])],
            source_key: Some(vec![0, 0xC3, 0xFF]),
            source_topic: "team.images.v1".to_owned(),
            source_partition: 3,
            source_offset: 1 << 40,
            created_at_ms: CREATED_AT_MS,
        }
    }
}

impl Sample for PromptEmbedding {
    fn sample() -> Self {
        PromptEmbedding {
            prompt_id: id(2),
            text: "a red fox in the snow".to_owned(),
            source: "diffusiondb".to_owned(),
            attributes: attributes(),
            created_at_ms: CREATED_AT_MS,
            minilm: vector("minilm@ba9876543210", &[1.0, 0.0]),
            clip: vector("clip@0123456789ab", &[0.6, -0.8, 0.0]),
        }
    }
}

impl Sample for Head {
    fn sample() -> Self {
        Head {
            name: "ridge".to_owned(),
            path: "heads/ridge-0123.safetensors".to_owned(),
            sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
            encoder: "clip@0123456789ab".to_owned(),
            minilm: "minilm@ba9876543210".to_owned(),
            metrics: BTreeMap::from([("validation_cosine".to_owned(), 0.731), ("samples".to_owned(), 750.0)]),
            blend_weight: 0.625,
            calibration: vec![0.25, -1.5],
            created_at_ms: CREATED_AT_MS,
        }
    }
}

impl Sample for Prediction {
    fn sample() -> Self {
        let near = |number, text: &str, similarity, weight| Neighbour {
            prompt_id: id(number),
            text: text.to_owned(),
            similarity,
            weight,
        };
        Prediction {
            image_id: id(1),
            source_key: Some(b"key".to_vec()),
            source_topic: "images.v1".to_owned(),
            source_partition: 0,
            source_offset: 42,
            vector: vec![0.6, 0.8],
            knn_vector: Some(vec![1.0, 0.0]),
            head_vector: Some(vec![0.0, 1.0]),
            neighbours: vec![near(2, "a red fox in the snow", 0.875, 0.75), near(3, "a fox", 0.5, 0.25)],
            expected_cosine: Some(0.71875),
            encoder: "clip@0123456789ab".to_owned(),
            head: Some("ridge@9f86d081884c".to_owned()),
            index: "prompts-clip-0123456789ab".to_owned(),
            blend: "linear 0.625".to_owned(),
            created_at_ms: CREATED_AT_MS,
        }
    }
}

fn any_id() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn any_values() -> impl Strategy<Value = Vec<f32>> {
    vec(any::<f32>(), 0..20)
}

fn any_vector() -> impl Strategy<Value = NamedVector> {
    (any::<String>(), any_values()).prop_map(|(model, values)| NamedVector { model, values })
}

fn any_attributes() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(any::<String>(), any::<String>(), 0..4)
}

fn any_key() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(vec(any::<u8>(), 0..20))
}

pub fn any_prompt() -> impl Strategy<Value = Prompt> {
    (any::<String>(), any::<String>(), vec(any::<i64>(), 0..5), any_attributes())
        .prop_map(|(text, source, seeds, attributes)| Prompt { text, source, seeds, attributes })
}

pub fn any_image_embedding() -> impl Strategy<Value = ImageEmbedding> {
    let ids = (any_id(), option::of(any_id()), any_key());
    let place = (any::<String>(), any::<i32>(), any::<i64>(), any::<i64>());
    (ids, vec(any_vector(), 0..3), place).prop_map(|((image_id, prompt_id, source_key), vectors, place)| {
        ImageEmbedding {
            image_id,
            prompt_id,
            vectors,
            source_key,
            source_topic: place.0,
            source_partition: place.1,
            source_offset: place.2,
            created_at_ms: place.3,
        }
    })
}

pub fn any_prompt_embedding() -> impl Strategy<Value = PromptEmbedding> {
    let texts = (any::<String>(), any::<String>(), any_attributes());
    (any_id(), texts, any::<i64>(), any_vector(), any_vector()).prop_map(
        |(prompt_id, (text, source, attributes), created_at_ms, minilm, clip)| PromptEmbedding {
            prompt_id,
            text,
            source,
            attributes,
            created_at_ms,
            minilm,
            clip,
        },
    )
}

pub fn any_head() -> impl Strategy<Value = Head> {
    let numbers =
        (btree_map(any::<String>(), any::<f64>(), 0..4), any::<f64>(), vec(any::<f64>(), 0..4), any::<i64>());
    (vec(any::<String>(), 5), numbers).prop_map(
        |(texts, (metrics, blend_weight, calibration, created_at_ms))| {
            let [name, path, sha256, encoder, minilm] = texts.try_into().expect("five texts were asked for");
            Head { name, path, sha256, encoder, minilm, metrics, blend_weight, calibration, created_at_ms }
        },
    )
}

fn any_neighbour() -> impl Strategy<Value = Neighbour> {
    (any_id(), any::<String>(), any::<f32>(), any::<f32>())
        .prop_map(|(prompt_id, text, similarity, weight)| Neighbour { prompt_id, text, similarity, weight })
}

pub fn any_prediction() -> impl Strategy<Value = Prediction> {
    let vectors =
        (any_values(), option::of(any_values()), option::of(any_values()), vec(any_neighbour(), 0..4));
    let place = (any_id(), any_key(), any::<i32>(), any::<i64>(), any::<i64>());
    let made_by = (vec(any::<String>(), 4), option::of(any::<String>()), option::of(any::<f32>()));
    (place, vectors, made_by).prop_map(|(place, vectors, (texts, head, expected_cosine))| {
        let [source_topic, encoder, index, blend] = texts.try_into().expect("four texts were asked for");
        Prediction {
            image_id: place.0,
            source_key: place.1,
            source_topic,
            source_partition: place.2,
            source_offset: place.3,
            vector: vectors.0,
            knn_vector: vectors.1,
            head_vector: vectors.2,
            neighbours: vectors.3,
            expected_cosine,
            encoder,
            head,
            index,
            blend,
            created_at_ms: place.4,
        }
    })
}
