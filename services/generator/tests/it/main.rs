//! The generator as a plain type: the seed determines the picture and its identity, whatever the
//! batch.

use std::path::Path;

use unprompt_generator::Generator;
use unprompt_models::stable_diffusion::{GenerationParams, Precision, Scheduler, VaeTiles};
use unprompt_schemas::cloudevents::{ImageEvent, names};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{InputRecord, Outcome, OutputRecord, Stage};

fn generator(batch: usize) -> Generator {
    let params = GenerationParams { steps: 4, ..GenerationParams::default() };
    load(Precision::F32, params, batch)
}

fn load(precision: Precision, params: GenerationParams, batch: usize) -> Generator {
    let sd2 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-world/checkpoints/sd2");
    Generator::load(&sd2, precision, params, batch, Codec::single_object()).unwrap()
}

fn record(text: &str, seeds: &[i64]) -> InputRecord {
    let prompt = Prompt {
        text: text.into(),
        source: "s".into(),
        seeds: seeds.to_vec(),
        attributes: Default::default(),
    };
    InputRecord {
        timestamp_ms: 1_700_000_000_000,
        value: Some(Codec::single_object().encode("prompts.v1", &prompt).unwrap()),
        ..InputRecord::new(Topic::Prompts)
    }
}

fn outputs(outcome: &Outcome) -> &[OutputRecord] {
    match outcome {
        Outcome::Outputs(outputs) => outputs,
        Outcome::Rejected(rejection) => panic!("rejected: {rejection:?}"),
    }
}

fn event(output: &OutputRecord) -> ImageEvent {
    ImageEvent::parse(&output.headers).unwrap()
}

#[test]
fn each_seed_gives_a_picture_with_an_identity_that_does_not_depend_on_the_batch() {
    let star = "a red star on a sandy beach";
    let batch = [record(star, &[1, 2]), record("index only", &[]), record("a blue house", &[1])];
    let outcomes = generator(8).process(&batch).unwrap();
    assert_eq!([2, 0, 1], [0, 1, 2].map(|at| outputs(&outcomes[at]).len()));
    let drawn = outputs(&outcomes[0]);
    assert_eq!(event(&drawn[0]).prompt_id, Some(prompt_id(star)));
    assert_eq!((event(&drawn[0]).seed, event(&drawn[1]).seed), (Some(1), Some(2)));
    assert_ne!(event(&drawn[0]).id, event(&drawn[1]).id);
    assert_ne!(drawn[0].value, drawn[1].value, "another seed draws another picture");

    let alone = generator(1).process(&[record(star, &[2])]).unwrap();
    let alone = &outputs(&alone[0])[0];
    assert_eq!(event(alone).id, event(&drawn[1]).id);
    let pixels =
        |output: &OutputRecord| image::load_from_memory(output.value.as_deref().unwrap()).unwrap().to_rgb8();
    let (a, b) = (pixels(alone), pixels(&drawn[1]));
    let furthest = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(furthest <= 2, "a picture depends on its batch by {furthest} of 255");
}

#[test]
fn one_call_processes_only_the_records_that_fill_a_network_pass() {
    let batch = [
        record("a red star", &[1]),
        record("index only", &[]),
        record("a blue house", &[1, 2]),
        record("a tree", &[1]),
    ];
    let mut generator = generator(2);
    let counts =
        |outcomes: &[Outcome]| outcomes.iter().map(|outcome| outputs(outcome).len()).collect::<Vec<_>>();
    let first = generator.process(&batch).unwrap();
    assert_eq!(counts(&first), [1, 0, 2], "the fourth record waits for the next pass");
    let rest = generator.process(&batch[first.len()..]).unwrap();
    assert_eq!(counts(&rest), [1]);
}

#[test]
fn a_record_with_too_many_seeds_is_rejected() {
    let seeds: Vec<i64> = (0..65_536).collect();
    let greedy = record(&"a red fish ".repeat(5_000), &seeds);
    let outcomes = generator(2).max_seeds(3).process(&[greedy, record("a tree", &[1, 2, 3])]).unwrap();
    let Outcome::Rejected(rejection) = &outcomes[0] else { panic!("{:?}", outcomes[0]) };
    assert_eq!(rejection.code, "too-many-seeds");
    assert!(
        rejection.reason.contains("65536 seeds, and a record may have at most 3"),
        "{}",
        rejection.reason
    );
    assert_eq!(outputs(&outcomes[1]).len(), 3);
}

#[test]
fn a_pictures_event_type_matches_the_asyncapi_contract() {
    let outcomes = generator(1).process(&[record("a red star", &[1])]).unwrap();
    let written = event(&outputs(&outcomes[0])[0]).event_type.unwrap();
    assert_eq!(written, names::TYPE_IMAGE_GENERATED);
    let contract = include_str!("../../../../schemas/asyncapi.yaml");
    assert!(contract.contains(&format!("ce_type: {written}\n")), "asyncapi.yaml names another type");
}

#[test]
fn an_empty_prompt_is_rejected_and_a_delete_draws_nothing() {
    let mut empty = record("x", &[1]);
    empty.value = Some(b"  ".to_vec());
    let mut delete = record("x", &[1]);
    delete.value = None;
    let outcomes = generator(2).process(&[empty, delete]).unwrap();
    assert!(matches!(outcomes[0], Outcome::Rejected(_)));
    assert!(outputs(&outcomes[1]).is_empty());
}

#[test]
fn every_setting_that_changes_a_picture_changes_its_identity() {
    let few = GenerationParams { steps: 3, ..GenerationParams::default() };
    let tall = GenerationParams { height: Some(96), ..few.clone() };
    let ways = [
        (Precision::F32, few.clone()),
        (Precision::Bf16, few.clone()),
        (Precision::F32, GenerationParams { scheduler: Scheduler::EulerAncestral, ..few.clone() }),
        (Precision::F32, GenerationParams { negative_prompt: "a blue star".into(), ..few.clone() }),
        (Precision::F32, GenerationParams { output: Some((32, 24)), ..few }),
        (Precision::F32, tall.clone()),
        (Precision::F32, GenerationParams { vae_tiles: VaeTiles::Always, ..tall }),
    ];
    let made: Vec<_> = ways
        .into_iter()
        .map(|(precision, params)| {
            let outcomes = load(precision, params, 2).process(&[record("a red star", &[7])]).unwrap();
            let picture = outputs(&outcomes[0])[0].clone();
            let event = ImageEvent::parse(&picture.headers).unwrap();
            (event.id.unwrap(), picture.value.unwrap())
        })
        .collect();
    for (at, (id, picture)) in made.iter().enumerate() {
        assert!(made[..at].iter().all(|(other, _)| other != id), "{at}");
        // bf16 may round to the same levels.
        assert!(at == 1 || made[..at].iter().all(|(_, other)| other != picture), "{at}");
    }
    let size = image::load_from_memory(&made[4].1).unwrap();
    assert_eq!((size.height(), size.width()), (32, 24));
}
