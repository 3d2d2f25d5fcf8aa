//! Runs every target briefly without libFuzzer: on arbitrary bytes, and on real inputs with some
//! bytes changed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use unprompt_fuzz::{TARGETS, Target};

/// A change to an input at a place in it.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Cut(Index),
    Repeat(Index, usize),
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>) {
        let end = input.len();
        let at = |place: &Index| place.index(end + 1);
        match self {
            Self::Set(place, byte) => input.iter_mut().skip(at(place)).take(1).for_each(|b| *b = *byte),
            Self::Flip(place, bit) => input.iter_mut().skip(at(place)).take(1).for_each(|b| *b ^= 1 << bit),
            Self::Insert(place, bytes) => drop(input.splice(at(place)..at(place), bytes.iter().copied())),
            Self::Remove(place, count) => drop(input.drain(at(place)..(at(place) + count).min(end))),
            Self::Cut(place) => input.truncate(at(place)),
            Self::Repeat(place, count) => {
                let part = input[at(place)..(at(place) + count).min(end)].to_vec();
                input.extend(part);
            }
        }
    }
}

/// Encoded long integers and lengths: mistakes are likely at the limits.
fn numbers() -> impl Strategy<Value = Vec<u8>> {
    let varint = |bytes: usize| [vec![0xff; bytes], vec![0x01]].concat();
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..9),
        (1..10usize).prop_map(varint),
        Just(u32::MAX.to_be_bytes().to_vec()),
        Just(i32::MAX.to_le_bytes().to_vec()),
        Just(vec![0; 8]),
    ]
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = any::<Index>;
    let edit = prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(place, byte)| Edit::Set(place, byte)),
        4 => (place(), 0..8u8).prop_map(|(place, bit)| Edit::Flip(place, bit)),
        4 => (place(), numbers()).prop_map(|(place, bytes)| Edit::Insert(place, bytes)),
        2 => (place(), 1..20usize).prop_map(|(place, count)| Edit::Remove(place, count)),
        1 => place().prop_map(Edit::Cut),
        1 => (place(), 1..200usize).prop_map(|(place, count)| Edit::Repeat(place, count)),
    ];
    proptest::collection::vec(edit, 1..12)
}

fn inputs(target: &Target) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seeds = (target.seeds)();
    let changed = (proptest::sample::select(seeds), edits()).prop_map(|(mut input, edits)| {
        edits.iter().for_each(|edit| edit.apply(&mut input));
        input
    });
    prop_oneof![1 => proptest::collection::vec(any::<u8>(), 0..300), 5 => changed]
}

fn holds(target: &Target, cases: u32) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&inputs(target), |input| {
        target.check(&input);
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{}: {failure}", target.name));
}

#[test]
fn real_inputs_pass() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has none", target.name);
        seeds.iter().for_each(|seed| target.check(seed));
    }
}

#[test]
fn records_of_arbitrary_bytes_are_read_or_refused_within_their_memory() {
    for name in ["prompt", "record", "older-record"] {
        holds(Target::named(name).unwrap(), 50_000);
    }
}

#[test]
fn schemas_of_arbitrary_bytes_are_read_or_refused_within_their_memory() {
    holds(Target::named("foreign-schema").unwrap(), 20_000);
}

#[test]
fn headers_of_arbitrary_bytes_are_read_or_refused_within_their_memory() {
    for name in ["image-event", "dead-letter"] {
        holds(Target::named(name).unwrap(), 50_000);
    }
}

#[test]
fn pictures_of_arbitrary_bytes_are_decoded_or_refused_within_their_memory() {
    holds(Target::named("picture").unwrap(), 20_000);
}

#[test]
fn uris_of_arbitrary_bytes_are_read_or_refused_within_their_memory() {
    holds(Target::named("uri").unwrap(), 50_000);
}

#[test]
fn heads_of_arbitrary_bytes_are_read_or_refused_within_their_memory() {
    holds(Target::named("head").unwrap(), 50_000);
}

#[test]
fn model_folders_of_arbitrary_files_are_loaded_or_refused_within_their_memory() {
    holds(Target::named("model-folder").unwrap(), 1_500);
}

#[test]
fn snapshots_of_arbitrary_bytes_are_read_or_refused_within_their_memory() {
    holds(Target::named("snapshot").unwrap(), 5_000);
}

#[test]
fn no_target_is_left_out() {
    let (here, told) = (include_str!("main.rs"), include_str!("../../../../CONTRIBUTING.md"));
    for target in TARGETS {
        let name = target.name;
        assert!(here.contains(&format!("{name:?}")), "{name} is not run here");
        assert!(told.contains(&format!("`{name}`")), "CONTRIBUTING.md does not name {name}");
    }
}

#[test]
fn a_target_that_exceeds_its_memory_or_panics_fails() {
    let greedy = Target {
        name: "greedy",
        run: |_| drop(std::hint::black_box(vec![0u8; 1 << 20])),
        seeds: Vec::new,
        memory_bytes: |_| 1000,
    };
    let fails = |target: Target| catch_unwind(AssertUnwindSafe(|| target.check(b""))).is_err();
    assert!(fails(greedy));
    assert!(!fails(Target { memory_bytes: |_| 1 << 21, ..greedy }));
    assert!(fails(Target { run: |_| panic!("on purpose"), memory_bytes: |_| 1 << 21, ..greedy }));
}
