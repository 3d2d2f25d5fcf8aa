//! A run stopped at any point resumes with exactly the remaining rows.

use proptest::prelude::*;
use unprompt_corpus::checkpoint::Checkpoint;
use unprompt_corpus::clean::Cleaning;
use unprompt_corpus::{Clean, Corpus, CorpusError};

use crate::samples::{coco, diffusion_db, folder, options, prompts, run, write};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_run_stopped_at_any_point_resumes_with_the_remaining_rows(stop in 0_usize..140, chunk in 1_usize..40) {
        let folder = folder();
        let texts = prompts(120);
        let (parquet, json) = (diffusion_db(folder.path(), &texts[..80]), coco(folder.path(), &texts[40..]));
        let options = options(&[&parquet, &json], Cleaning { max_nsfw: Some(1.0), ..Cleaning::default() });
        let (whole, report) = run(options.clone()).unwrap();

        let mut corpus = Corpus::open(options.clone(), None).unwrap();
        let mut rows: Vec<Clean> = Vec::new();
        while rows.len() < stop.min(whole.len()) {
            rows.extend(corpus.next_chunk(chunk).unwrap());
        }
        let mut corpus = Corpus::open(options, None).unwrap();
        corpus.resume(rows.last().map_or(0, |clean| clean.seq + 1));
        loop {
            let more = corpus.next_chunk(chunk).unwrap();
            if more.is_empty() {
                break;
            }
            rows.extend(more);
        }
        prop_assert_eq!(rows, whole);
        prop_assert_eq!(corpus.report(), report, "the second run's report covers all rows");
    }
}

#[test]
fn a_checkpoint_keeps_the_progress_until_a_restart_or_its_removal() {
    let folder = folder();
    let path = write(folder.path(), "p.txt", "a\nb\n");
    let corpus = Corpus::open(options(&[&path], Cleaning::default()), None).unwrap();
    let kept = folder.path().join("imports");
    let (checkpoint, acknowledged) = Checkpoint::open(&kept, corpus.fingerprint(), false).unwrap();
    assert_eq!(acknowledged, 0);
    checkpoint.save(17).unwrap();
    assert_eq!(Checkpoint::open(&kept, corpus.fingerprint(), false).unwrap().1, 17);
    assert_eq!(Checkpoint::open(&kept, corpus.fingerprint(), true).unwrap().1, 0);
    checkpoint.save(18).unwrap();
    checkpoint.remove().unwrap();
    assert_eq!(Checkpoint::open(&kept, corpus.fingerprint(), false).unwrap().1, 0);
}

#[test]
fn a_run_with_other_options_or_changed_files_is_not_resumed() {
    let folder = folder();
    let kept = folder.path().join("imports");
    let path = write(folder.path(), "p.txt", "a\nb\n");
    let fingerprint = |cleaning| Corpus::open(options(&[&path], cleaning), None).unwrap().fingerprint();
    let (checkpoint, _) = Checkpoint::open(&kept, fingerprint(Cleaning::default()), false).unwrap();
    checkpoint.save(1).unwrap();

    let other = Cleaning { min_chars: Some(3), ..Cleaning::default() };
    let error = Checkpoint::open(&kept, fingerprint(other), false).unwrap_err();
    assert!(matches!(error, CorpusError::OtherRun { .. }));
    assert!(error.to_string().contains("--restart"), "{error}");
    assert!(error.to_string().contains("min_chars was null then, and is 3 now"), "{error}");

    write(folder.path(), "p.txt", "a\nb\nc\n");
    let error = Checkpoint::open(&kept, fingerprint(Cleaning::default()), false).unwrap_err();
    assert!(error.to_string().contains("p.txt is new or has changed"), "{error}");

    let file = std::fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "{").unwrap();
    let error = Checkpoint::open(&kept, fingerprint(Cleaning::default()), false).unwrap_err();
    assert!(error.to_string().contains("--restart"), "{error}");
}
