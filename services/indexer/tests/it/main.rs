//! The indexer as a plain type on a real index: the effects of a batch of records.

use tempfile::TempDir;
use tokio::runtime::Runtime;
use unprompt_embedded_index::EmbeddedIndex;
use unprompt_index::{ConnectOptions, Layout, MINILM_DIM, PromptIndex, PromptPoint};
use unprompt_indexer::Indexer;
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::names;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::prompt_id;
use unprompt_schemas::records::{NamedVector, PromptEmbedding};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, Stage as _, now_ms};

const ENCODER: &str = "tiny-clip@0123456789ab";
const MINILM: &str = "all-MiniLM-L6-v2@1";
const CLIP_DIM: usize = 16;

/// An indexer and its index.
struct Fixture {
    runtime: Runtime,
    endpoint: EmbeddedIndex,
    index: PromptIndex,
    indexer: Indexer,
    _folder: TempDir,
}

impl Fixture {
    fn start() -> Self {
        let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let endpoint = runtime.block_on(EmbeddedIndex::start(folder.path(), 0)).unwrap();
        let url = endpoint.url();
        let index = runtime.block_on(PromptIndex::connect(&url, ConnectOptions::default())).unwrap();
        let (layout, handle) = (Layout::new(ENCODER, CLIP_DIM, MINILM), runtime.handle().clone());
        let indexer = Indexer::open(index.clone(), layout, Codec::single_object(), handle).unwrap();
        Self { runtime, endpoint, index, indexer, _folder: folder }
    }

    fn process(&mut self, batch: &[InputRecord]) -> Vec<Outcome> {
        self.indexer.process(batch).unwrap()
    }

    /// The prompt as the index holds it.
    fn prompt(&self, text: &str) -> Option<PromptPoint> {
        self.runtime.block_on(self.index.get(&[prompt_id(text)], true)).unwrap().pop()
    }
}

/// A vector of length 1 along one axis.
fn vector(model: &str, dim: usize, axis: usize) -> NamedVector {
    let values = (0..dim).map(|at| f32::from(u8::from(at == axis))).collect();
    NamedVector { model: model.into(), values }
}

fn embedding(text: &str) -> PromptEmbedding {
    PromptEmbedding {
        prompt_id: prompt_id(text),
        text: text.into(),
        source: "test".into(),
        created_at_ms: 500,
        minilm: vector(MINILM, MINILM_DIM, 0),
        clip: vector(ENCODER, CLIP_DIM, 0),
        ..PromptEmbedding::default()
    }
}

fn record(key: Uuid, value: Option<Vec<u8>>) -> InputRecord {
    InputRecord {
        timestamp_ms: 500,
        key: Some(key.to_string().into_bytes()),
        value,
        ..InputRecord::new(Topic::PromptEmbeddings)
    }
}

fn upsert(embedding: &PromptEmbedding) -> InputRecord {
    let value = Codec::single_object().encode("prompt-embeddings.v1", embedding).unwrap();
    record(embedding.prompt_id, Some(value))
}

fn delete(text: &str) -> InputRecord {
    record(prompt_id(text), None)
}

/// The same record with a source time that is `by_ms` milliseconds later.
fn later(record: InputRecord, by_ms: i64) -> InputRecord {
    let time = (record.timestamp_ms + by_ms).to_string().into_bytes();
    InputRecord { headers: vec![(names::SOURCE_TIME.to_owned(), time)], ..record }
}

/// The same record from a partition of prompts.v1.
fn from(partition: i32, mut record: InputRecord) -> InputRecord {
    record.headers.push((names::SOURCE_PARTITION.to_owned(), partition.to_string().into_bytes()));
    record
}

/// The code of each rejection; `None` for an accepted record.
fn codes(outcomes: &[Outcome]) -> Vec<Option<&str>> {
    let code = |outcome: &Outcome| match outcome {
        Outcome::Outputs(outputs) => {
            assert!(outputs.is_empty(), "the indexer writes to no topic: {outputs:?}");
            None
        }
        Outcome::Rejected(rejection) => Some(rejection.code),
    };
    outcomes.iter().map(code).collect()
}

#[test]
fn upserts_and_deletes_of_one_batch_take_effect_in_their_order() {
    let mut fixture = Fixture::start();
    let old = PromptEmbedding { source: "old".into(), ..embedding("recreated") };
    let batch = [
        upsert(&embedding("removed")),
        delete("made late"),
        delete("removed"),
        upsert(&embedding("made late")),
        upsert(&old),
        delete("recreated"),
        upsert(&embedding("recreated")),
        delete("never there"),
    ];
    assert_eq!(codes(&fixture.process(&batch)), [None; 8]);
    assert_eq!(fixture.prompt("removed"), None);
    assert!(fixture.prompt("made late").is_some());
    assert_eq!(fixture.prompt("recreated").unwrap().sources, ["test"], "the delete forgot the old source");
    assert_eq!(fixture.prompt("never there"), None);
}

#[test]
fn the_later_of_a_write_and_a_deletion_wins_in_any_arrival_order() {
    for one_by_one in [false, true] {
        let mut fixture = Fixture::start();
        let (red, blue, green) = (embedding("red"), embedding("blue"), embedding("green"));
        let batch = [
            // Deleted later than written.
            later(delete("red"), 2),
            later(upsert(&red), 1),
            // Written again after a deletion that comes late.
            later(upsert(&blue), 3),
            later(delete("blue"), 2),
            // Deleted, written again, and the first write comes late.
            later(delete("green"), 5),
            later(upsert(&green), 6),
            later(upsert(&PromptEmbedding { source: "first".into(), ..green.clone() }), 4),
        ];
        let batches = if one_by_one { batch.chunks(1) } else { batch.chunks(batch.len()) };
        for batch in batches {
            assert!(codes(&fixture.process(batch)).iter().all(Option::is_none));
        }
        assert_eq!(fixture.prompt("red"), None, "it came back");
        assert_eq!(fixture.prompt("blue").unwrap().version.unwrap().at_ms, 503);
        assert_eq!(fixture.prompt("green").unwrap().sources, ["test"], "what was deleted is forgotten");
        // All of it again, as after a lost commit.
        fixture.process(&batch);
        assert_eq!((fixture.prompt("red"), fixture.prompt("blue").is_some()), (None, true));
    }
}

#[test]
fn a_deletion_survives_a_restart_of_the_index() {
    let Fixture { runtime, endpoint, mut indexer, _folder: folder, .. } = Fixture::start();
    indexer.process(&[later(delete("red"), 2)]).unwrap();
    runtime.block_on(endpoint.stop()).unwrap();
    drop(indexer);
    let endpoint = runtime.block_on(EmbeddedIndex::start(folder.path(), 0)).unwrap();
    let url = endpoint.url();
    let index = runtime.block_on(PromptIndex::connect(&url, ConnectOptions::default())).unwrap();
    let (layout, handle) = (Layout::new(ENCODER, CLIP_DIM, MINILM), runtime.handle().clone());
    let indexer = Indexer::open(index.clone(), layout, Codec::single_object(), handle).unwrap();
    let mut fixture = Fixture { runtime, endpoint, index, indexer, _folder: folder };
    fixture.process(&[later(upsert(&embedding("red")), 1), later(upsert(&embedding("blue")), 1)]);
    assert_eq!((fixture.prompt("red"), fixture.prompt("blue").is_some()), (None, true));
}

#[test]
fn records_of_one_partition_take_effect_in_their_order_whatever_their_times() {
    let mut fixture = Fixture::start();
    let (red, blue) = (embedding("red"), embedding("blue"));
    fixture.process(&[
        // The clock of the client that deleted it is ahead.
        from(3, later(delete("red"), 9)),
        from(3, later(upsert(&red), 1)),
        from(3, later(upsert(&blue), 9)),
        from(3, later(delete("blue"), 1)),
    ]);
    assert_eq!((fixture.prompt("red").is_some(), fixture.prompt("blue")), (true, None));
    fixture.process(&[from(4, later(upsert(&blue), 0))]);
    assert_eq!(fixture.prompt("blue"), None, "between partitions the times decide");
}

#[test]
fn a_record_dated_in_the_future_does_not_override_later_records() {
    let mut fixture = Fixture::start();
    // In prompts.v1, and in prompt-embeddings.v1 itself, which strangers may write to.
    let far = |record: InputRecord| later(record, i64::MAX / 2);
    let further = |record: InputRecord| InputRecord { timestamp_ms: i64::MAX, ..record };
    let written = |record: InputRecord, at_ms: i64| InputRecord { timestamp_ms: at_ms, ..record };
    fixture.process(&[far(delete("red")), far(upsert(&embedding("blue"))), further(delete("green"))]);
    let soon = now_ms() + 3 * 24 * 3_600_000;
    let next = [upsert(&embedding("red")), delete("blue")].map(|record| written(record, 600));
    fixture.process(&next);
    fixture.process(&[written(upsert(&embedding("green")), soon)]);
    assert!(fixture.prompt("red").is_some(), "the deletion was later");
    assert_eq!(fixture.prompt("blue"), None, "the write was later");
    assert!(fixture.prompt("green").is_some(), "the deletion was later");
}

#[test]
fn duplicate_prompts_in_a_batch_become_one_point_with_both_sources() {
    let mut fixture = Fixture::start();
    let last = PromptEmbedding {
        source: "second".into(),
        created_at_ms: 900,
        minilm: vector(MINILM, MINILM_DIM, 7),
        ..embedding("a red star")
    };
    assert_eq!(codes(&fixture.process(&[upsert(&embedding("a red star")), upsert(&last)])), [None; 2]);
    let point = fixture.prompt("a red star").unwrap();
    assert_eq!(point.sources, ["second", "test"]);
    assert_eq!((point.created_at_ms, point.minilm), (500, last.minilm.values));
    assert_eq!(fixture.runtime.block_on(fixture.index.count(&Default::default())).unwrap(), 1);
}

#[test]
fn reprocessing_a_batch_changes_nothing() {
    let mut fixture = Fixture::start();
    let batch = [upsert(&embedding("a red star")), delete("a blue house"), upsert(&embedding("a cat"))];
    fixture.process(&batch);
    let first = [fixture.prompt("a red star"), fixture.prompt("a cat")];
    fixture.process(&batch);
    assert_eq!([fixture.prompt("a red star"), fixture.prompt("a cat")], first);
}

#[test]
fn vectors_that_do_not_fit_the_collection_are_rejected_alone() {
    let mut fixture = Fixture::start();
    let batch = [
        upsert(&embedding("before")),
        upsert(&PromptEmbedding { minilm: vector(MINILM, MINILM_DIM - 1, 0), ..embedding("short minilm") }),
        upsert(&PromptEmbedding { clip: vector(ENCODER, CLIP_DIM + 1, 0), ..embedding("long clip") }),
        upsert(&PromptEmbedding { clip: vector("other@1", CLIP_DIM, 0), ..embedding("other clip") }),
        upsert(&PromptEmbedding { minilm: vector("other@1", MINILM_DIM, 0), ..embedding("other minilm") }),
        upsert(&embedding("after")),
    ];
    let outcomes = fixture.process(&batch);
    let (dimension, other) = (Some("dimension"), Some("other-model"));
    assert_eq!(codes(&outcomes), [None, dimension, dimension, other, other, None]);
    let Outcome::Rejected(rejection) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert!(rejection.reason.contains("minilm") && rejection.reason.contains("383"), "{rejection:?}");
    assert!(fixture.prompt("before").is_some() && fixture.prompt("after").is_some());
    assert_eq!(fixture.runtime.block_on(fixture.index.count(&Default::default())).unwrap(), 2);
}

#[test]
fn a_vector_with_a_non_finite_value_is_rejected_alone() {
    let mut fixture = Fixture::start();
    let (mut minilm, mut clip) = (embedding("nan"), embedding("infinite"));
    minilm.minilm.values[3] = f32::NAN;
    clip.clip.values[0] = f32::INFINITY;
    let outcomes = fixture.process(&[upsert(&minilm), upsert(&clip), upsert(&embedding("good"))]);
    assert_eq!(codes(&outcomes), [Some("not-finite"), Some("not-finite"), None]);
    assert!(fixture.prompt("good").is_some());
    assert_eq!((fixture.prompt("nan"), fixture.prompt("infinite")), (None, None));
}

#[test]
fn oversized_or_empty_prompts_and_zero_vectors_are_rejected_alone() {
    let mut fixture = Fixture::start();
    let zeros = NamedVector { model: ENCODER.into(), values: vec![0.0; CLIP_DIM] };
    let many = (0..9_000).map(|at| (format!("name {at}"), "value".to_owned())).collect();
    let batch = [
        upsert(&embedding(&"a red star ".repeat(6_000))),
        upsert(&PromptEmbedding { attributes: many, ..embedding("many attributes") }),
        upsert(&PromptEmbedding { source: "s".repeat(2_000), ..embedding("a long source") }),
        upsert(&PromptEmbedding { clip: zeros, ..embedding("zeros") }),
        upsert(&PromptEmbedding { text: " ".into(), ..embedding("empty") }),
        upsert(&embedding("good")),
    ];
    let outcomes = fixture.process(&batch);
    let too_long = Some("prompt-too-long");
    assert_eq!(
        codes(&outcomes),
        [too_long, too_long, too_long, Some("no-direction"), Some("empty-prompt"), None]
    );
    assert_eq!(fixture.runtime.block_on(fixture.index.count(&Default::default())).unwrap(), 1);
}

#[test]
fn a_value_that_is_not_avro_and_a_delete_without_an_id_are_rejected_alone() {
    let mut fixture = Fixture::start();
    let garbage = record(prompt_id("x"), Some(b"this is no Avro".to_vec()));
    let nameless = InputRecord { key: Some(b"not an id".to_vec()), ..delete("x") };
    let keyless = InputRecord { key: None, ..delete("x") };
    let outcomes = fixture.process(&[garbage, nameless, upsert(&embedding("good")), keyless]);
    let codes = codes(&outcomes);
    assert!(codes[0].is_some(), "{outcomes:?}");
    assert_eq!(codes[1..], [Some("delete-without-id"), None, Some("delete-without-id")]);
    assert!(fixture.prompt("good").is_some());
}

#[test]
fn a_dropped_collection_is_recreated_and_the_batch_retried() {
    let mut fixture = Fixture::start();
    fixture.process(&[upsert(&embedding("before"))]);
    fixture.runtime.block_on(fixture.index.drop_collection()).unwrap();
    let batch = [upsert(&embedding("after"))];
    let Err(BatchError::Transient(reason)) = fixture.indexer.process(&batch) else { panic!("not retried") };
    assert!(reason.contains("recreated"), "{reason}");
    assert_eq!(codes(&fixture.process(&batch)), [None]);
    assert!(fixture.prompt("after").is_some() && fixture.prompt("before").is_none());
}

#[test]
fn a_batch_waits_for_an_unavailable_index() {
    let Fixture { runtime, endpoint, mut indexer, _folder, .. } = Fixture::start();
    runtime.block_on(endpoint.stop()).unwrap();
    let outcome = indexer.process(&[upsert(&embedding("a red star"))]);
    assert!(matches!(outcome, Err(BatchError::Transient(_))), "{outcome:?}");
}
