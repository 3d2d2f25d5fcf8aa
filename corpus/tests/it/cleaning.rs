//! Dropped rows are reported with their reasons, and the counts add up.

use unprompt_corpus::clean::Cleaning;
use unprompt_corpus::report::{CorpusReport, Reason};

use crate::samples::{diffusion_db, folder, options, prompts, run, write};

#[test]
fn every_row_is_kept_or_dropped_for_one_reason() {
    let folder = folder();
    let texts = prompts(40);
    let parquet = diffusion_db(folder.path(), &texts);
    let lines =
        format!("{{\"text\":\"{}\"}}\nnonsense\n{{\"text\":\" \"}}\n{{\"text\":\"new\"}}\n", texts[0]);
    let lines = write(folder.path(), "more.jsonl", lines);
    let (kept, report) =
        run(options(&[&parquet, &lines], Cleaning { max_nsfw: Some(0.9), ..Cleaning::default() })).unwrap();
    let count = |reason| report.dropped.get(&reason).map_or(0, |dropped| dropped.count);
    assert_eq!((report.read, report.kept), (44, 31));
    assert_eq!(kept.len(), 31);
    let reasons = [Reason::Nsfw, Reason::Duplicate, Reason::NotJson, Reason::Empty];
    assert_eq!(reasons.map(count), [10, 1, 1, 1]);
    assert_eq!(report.without_score["nsfw"], 2, "those with a text but no score");
    assert_eq!((report.inputs[0].kept, report.inputs[1].kept), (30, 1));
    let example = &report.dropped[&Reason::Duplicate].examples[0];
    assert_eq!((example.row, example.text.as_str()), (1, texts[0].as_str()));
    assert_eq!(report.dropped[&Reason::Nsfw].examples.len(), 3, "a few examples are enough");
}

#[test]
fn kept_rows_have_consecutive_sequence_numbers() {
    let folder = folder();
    let path = write(folder.path(), "p.txt", "a\nb\na\n\nc\n");
    let (kept, _) = run(options(&[&path, &path], Cleaning::default())).unwrap();
    let places: Vec<_> = kept.iter().map(|clean| (clean.seq, clean.input, clean.number)).collect();
    assert_eq!(places, [(0, 0, 1), (1, 0, 2), (2, 0, 5)]);
    let (kept, _) =
        run(options(&[&path, &path], Cleaning { keep_duplicates: true, ..Cleaning::default() })).unwrap();
    assert_eq!(kept.len(), 8);
}

#[test]
fn a_report_round_trips_through_json_and_prints_its_reasons() {
    let folder = folder();
    let path = write(folder.path(), "p.txt", "a\na\n");
    let (_, mut report) = run(options(&[&path], Cleaning::default())).unwrap();
    report.drop_kept(Reason::NearDuplicate, (0, 1), "a");
    assert!(report.adds_up());
    assert_eq!((report.kept, report.dropped()), (0, 2));
    let again: CorpusReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again, report);
    let words = report.to_string();
    assert!(
        words.contains("exact duplicate") && words.contains("near duplicate") && words.contains("p.txt:2 a"),
        "{words}"
    );
}
