//! An encoder at a non-default side, alongside other encoders: its vectors, a head trained on them,
//! and predictions with that head.

use unprompt_schemas::Uuid;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, Prediction};
use unprompt_schemas::topics::Topic;
use unprompt_stream::KafkaConfig;

use crate::stack::{
    Up, all_predicted, picture_record, png, predictions, prompt_record, prompts, publish, read_until,
    unprompt,
};

const PROMPTS: usize = 120;
/// The tiny world's CLIP has the native side 64.
const SIDE: (&str, &str) = ("UNPROMPT__MODELS__CLIP_SIDE", "48");
const FURTHER: (&str, &str) = (
    "UNPROMPT__MODELS__ENCODERS",
    r#"["models/tests/reference/encoders/eva02-l", {folder = "models/tests/reference/encoders/convnext", side = 96}]"#,
);

/// The prediction of a new picture.
async fn predicted(kafka: &KafkaConfig, id: u128) -> Prediction {
    let id = Uuid::from_u128(id);
    publish(kafka, vec![picture_record(png(200, 40, 40), id)]).await;
    let wanted = [id].into_iter().collect();
    let records =
        read_until(kafka, Topic::Predictions, "a prediction", |records| all_predicted(records, &wanted))
            .await;
    predictions(&records).remove(&id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_used_for_the_side_it_was_trained_with_and_for_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start_with(folder.path(), &[SIDE, FURTHER]);
    publish(&up.kafka, prompts(7, PROMPTS, true).iter().map(prompt_record).collect()).await;
    let embeddings = read_until(&up.kafka, Topic::ImageEmbeddings, "every picture's vectors", |records| {
        records.len() >= PROMPTS
    })
    .await;
    for record in &embeddings {
        let embedding: ImageEmbedding =
            Codec::single_object().decode(record.value.as_deref().unwrap()).unwrap();
        let names: Vec<&str> = embedding.vectors.iter().map(|vector| vector.model.as_str()).collect();
        let is = |at: usize, name: &str, side: &str| names[at].starts_with(name) && names[at].ends_with(side);
        assert!(
            is(0, "clip@", ";side=48") && is(1, "eva02-l@", "") && is(2, "convnext@", ";side=96"),
            "{names:?}"
        );
        assert!(names.len() == 3 && !names[1].contains("side"), "{names:?}");
    }

    let train = |name: &str, environment: &[(&str, &str)]| {
        let mut command = unprompt();
        command.args(["train", "--name", name, "--data-dir"]).arg(folder.path());
        command.envs(environment.iter().copied()).output().unwrap()
    };
    assert_eq!(predicted(&up.kafka, 1).await.head, None);
    let trained = train("at-48", &[SIDE, FURTHER]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    // The head is announced on a topic, and the predictor may read it later.
    let mut tries = 2..200;
    let with_head = loop {
        let prediction = predicted(&up.kafka, tries.next().expect("the head is in use in the end")).await;
        if prediction.head.is_some() {
            break prediction;
        }
    };
    assert!(with_head.head.as_deref().unwrap().starts_with("at-48"), "{:?}", with_head.head);
    assert!(with_head.encoder.ends_with(";side=48") && with_head.head_vector.is_some());
    assert!(up.terminate());

    let up = Up::start(folder.path());
    let plain = predicted(&up.kafka, 1000).await;
    assert!(!plain.encoder.contains("side"), "{}", plain.encoder);
    assert_eq!((plain.head, plain.head_vector), (None, None), "a head of 48 pixels is used for 64");
    let refused = train("at-64", &[]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("side=48"), "{error}");
}
