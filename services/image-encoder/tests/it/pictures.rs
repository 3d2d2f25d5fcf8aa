//! Pictures in records: vectors out, and each bad picture rejected on its own.

use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_stream::{Outcome, Stage};

use crate::support::{claim, clip, embedding, encoder, load, png, record, rejection};

#[test]
fn a_bad_picture_is_rejected_and_its_neighbours_are_encoded_as_if_alone() {
    let mut encoder = encoder();
    let good = |offset, shade| record(offset, Some(png(shade)), ImageEvent::default());
    let batch = [
        good(0, 10),
        record(1, Some(b"not a picture".to_vec()), ImageEvent::default()),
        record(2, None, ImageEvent::default()),
        good(3, 200),
    ];
    let outcomes = encoder.process(&batch).unwrap();
    assert_eq!(outcomes.len(), 4);
    assert!(matches!(&outcomes[1], Outcome::Rejected(rejection) if rejection.reason.len() > 20));
    assert!(matches!(&outcomes[2], Outcome::Rejected(rejection) if rejection.code == "null-value"));
    for at in [0, 3] {
        let alone = encoder.process(&batch[at..=at]).unwrap();
        let (together, alone) = (embedding(&outcomes[at]), embedding(&alone[0]));
        let cosine: f32 =
            together.vectors[0].values.iter().zip(&alone.vectors[0].values).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "picture {at} depends on its batch: {cosine}");
    }
}

#[test]
fn identity_position_and_producer_headers_are_passed_on() {
    let mut encoder = encoder();
    let (id, prompt) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let event = ImageEvent { id: Some(id.to_string()), prompt_id: Some(prompt), ..ImageEvent::default() };
    let outcomes = encoder.process(&[record(5, Some(png(1)), event)]).unwrap();
    let got = embedding(&outcomes[0]);
    assert_eq!((got.image_id, got.prompt_id), (id, Some(prompt)));
    assert_eq!(
        (got.source_topic.as_str(), got.source_partition, got.source_offset),
        ("test.images.v1", 2, 5)
    );
    assert_eq!((got.source_key.as_deref(), got.created_at_ms), (Some(b"key".as_slice()), 1_005));
    let norm: f32 = got.vectors[0].values.iter().map(|v| v * v).sum();
    assert!((norm - 1.0).abs() < 1e-3, "a unit vector, not of norm² {norm}");
    let Outcome::Outputs(outputs) = &outcomes[0] else { unreachable!("embedding() has looked") };
    assert_eq!(outputs[0].key.as_deref(), Some(id.to_string().as_bytes()));
    assert!(outputs[0].headers.contains(&("correlation-id".into(), b"c-7".to_vec())));
}

#[test]
fn a_picture_without_an_id_gets_one_from_its_position() {
    let mut encoder = encoder();
    let at = |offset| record(offset, Some(png(1)), ImageEvent::default());
    let first = embedding(&encoder.process(&[at(5)]).unwrap()[0]).image_id;
    let again = embedding(&encoder.process(&[at(5)]).unwrap()[0]).image_id;
    let other = embedding(&encoder.process(&[at(6)]).unwrap()[0]).image_id;
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn without_allowed_prefixes_no_uri_is_fetched_and_the_reason_says_what_to_set() {
    let outcomes = encoder().process(&[claim(0, "https://example.org/cat.png")]).unwrap();
    let rejection = rejection(&outcomes[0]);
    assert_eq!(rejection.code, "uri-not-allowed");
    assert!(rejection.reason.contains("allow in [claim_check]"), "{}", rejection.reason);
}

#[test]
fn a_record_carries_every_encoders_vector_unaffected_by_the_others() {
    let untrained = |name: &str| clip().join("../../../tests/reference/encoders").join(name);
    let encoders = [
        (clip(), None),
        (untrained("eva02-l"), None),
        (untrained("eva02-l"), Some(48)),
        (untrained("convnext"), None),
    ];
    let mut together = load(&encoders).unwrap();
    let batch =
        [record(0, Some(png(9)), ImageEvent::default()), record(1, Some(png(90)), ImageEvent::default())];
    let outcomes = together.process(&batch).unwrap();
    let found = embedding(&outcomes[1]).vectors;
    let names: Vec<&str> = found.iter().map(|vector| vector.model.as_str()).collect();
    assert!(names[0].starts_with("clip@") && names[3].starts_with("convnext@"), "{names:?}");
    assert_eq!(names[2], format!("{};side=48", names[1]));
    for (encoder, found) in encoders.iter().zip(found) {
        let mut alone = load(std::slice::from_ref(encoder)).unwrap();
        let alone = embedding(&alone.process(&batch[1..]).unwrap()[0]).vectors.remove(0);
        assert_eq!(alone.model, found.model);
        let cosine: f32 = alone.values.iter().zip(&found.values).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "{}: {cosine}", found.model);
    }
}

#[test]
fn a_duplicate_encoder_and_a_side_not_divisible_by_its_patches_are_refused() {
    let error = load(&[(clip(), None), (clip(), None)]).unwrap_err().to_string();
    assert!(error.contains("clip@") && error.contains("once"), "{error}");
    let error = load(&[(clip(), Some(1))]).unwrap_err().to_string();
    assert!(error.contains("multiple"), "{error}");
}
