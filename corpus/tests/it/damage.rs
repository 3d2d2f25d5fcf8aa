//! Files that are truncated or corrupt.

use std::path::Path;

use unprompt_corpus::clean::Cleaning;
use unprompt_corpus::reader::Reading;
use unprompt_corpus::{Corpus, CorpusError};

use crate::samples::{coco, coyo, entries, folder, gzip, options, prompts, write};

fn cut(path: &Path, share: f64) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    bytes[..(bytes.len() as f64 * share) as usize].to_vec()
}

fn damaged(path: &Path) -> String {
    match entries(path, &Reading::default()) {
        Err(error @ CorpusError::Damaged { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_truncated_parquet_file_is_named_in_the_error() {
    let folder = folder();
    let bytes = cut(&coyo(folder.path(), &prompts(200)), 0.7);
    let error = damaged(&write(folder.path(), "cut.parquet", bytes));
    assert!(error.contains("cut.parquet") && error.contains("fetch or make the file again"), "{error}");
}

#[test]
fn flipped_bytes_in_parquet_end_in_an_error_or_in_rows_and_never_in_a_panic() {
    let folder = folder();
    let bytes = std::fs::read(coyo(folder.path(), &prompts(64))).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 300) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        let path = write(folder.path(), "flipped.parquet", bytes);
        if let Err(error) = entries(&path, &Reading::default()) {
            assert!(error.to_string().contains("flipped.parquet"), "{error}");
        }
    }
}

#[test]
fn a_truncated_gzip_or_zstd_yields_rows_and_then_an_error_with_its_name() {
    let folder = folder();
    let text = prompts(20_000).join("\n");
    let packed =
        [("a.txt.gz", gzip(text.as_bytes())), ("a.txt.zst", zstd::encode_all(text.as_bytes(), 3).unwrap())];
    for (name, bytes) in packed {
        let path = write(folder.path(), name, &bytes[..bytes.len() / 2]);
        let mut corpus = Corpus::open(options(&[&path], Cleaning::default()), None).unwrap();
        let mut rows = 0;
        let error = loop {
            match corpus.next_chunk(1_000) {
                Ok(chunk) => {
                    assert!(!chunk.is_empty(), "{name} ended as if it were whole");
                    rows += chunk.len();
                }
                Err(error) => break error.to_string(),
            }
        };
        assert!(rows > 1_000, "{name}: {rows} rows");
        assert!(error.contains(name) && error.contains("cut off after row"), "{error}");
        assert!(corpus.next_chunk(1).unwrap().is_empty(), "no rows follow an error");
        assert!(corpus.report().adds_up());
    }
}

#[test]
fn a_truncated_json_document_error_names_the_file_and_the_byte() {
    let folder = folder();
    let bytes = cut(&coco(folder.path(), &prompts(100)), 0.6);
    let error = damaged(&write(folder.path(), "cut.json", bytes));
    assert!(error.contains("cut.json") && error.contains("byte"), "{error}");
}

#[test]
fn packed_parquet_is_refused_with_what_to_do() {
    let folder = folder();
    let bytes = std::fs::read(coyo(folder.path(), &prompts(10))).unwrap();
    let error =
        entries(&write(folder.path(), "t.parquet.gz", gzip(&bytes)), &Reading::default()).unwrap_err();
    assert!(error.to_string().contains("t.parquet.gz") && error.to_string().contains("unpack it"), "{error}");
}

#[test]
fn an_empty_file_holds_no_rows() {
    let folder = folder();
    for name in ["e.txt", "e.csv", "e.jsonl"] {
        assert!(entries(&write(folder.path(), name, ""), &Reading::default()).unwrap().is_empty(), "{name}");
    }
    damaged(&write(folder.path(), "e.parquet", ""));
    damaged(&write(folder.path(), "e.json", ""));
}
