//! Tables are complete or absent, and are read back as written.

use std::collections::BTreeMap;
use std::path::Path;

use unprompt_corpus::table::{Columns, ExportRow, TableWriter};
use unprompt_corpus::{CorpusError, Row};
use unprompt_schemas::identity::prompt_id;

use crate::samples::{folder, prompts, rows};

const ALL: Columns = Columns { similarity: true, seeds: true, vectors: true };
const NAMES: [&str; 8] =
    ["t.parquet", "t.csv", "t.tsv", "t.jsonl", "t.csv.gz", "t.tsv.zst", "t.jsonl.gz", "t.ndjson.zst"];

fn row(text: &str, number: usize) -> ExportRow {
    ExportRow {
        prompt_id: prompt_id(text),
        text: text.to_owned(),
        sources: vec!["tiny-world".into(), "a, \"b\"".into()],
        created_at_ms: number.is_multiple_of(2).then_some(1_764_000_000_000 + number as i64),
        attributes: BTreeMap::from([("k".to_owned(), format!("v\t{number}\n"))]),
        similarity: Some(number as f32 / 16.0),
        seeds: vec![number as i64, -1],
        minilm: Some(vec![0.25; 4]),
        clip: None,
    }
}

fn table(path: &Path, columns: Columns, rows: &[ExportRow]) -> u64 {
    let mut writer = TableWriter::create(path, columns).unwrap();
    rows.chunks(10).for_each(|rows| writer.write(rows).unwrap());
    assert!(!path.exists(), "no file has the final name before the end");
    writer.finish().unwrap()
}

#[test]
fn every_table_format_is_read_back_as_written() {
    let folder = folder();
    let mut texts = prompts(30);
    texts[3] = "\"quoted\", with\ta tab\nand two lines".into();
    let written: Vec<_> = texts.iter().enumerate().map(|(number, text)| row(text, number)).collect();
    for name in NAMES {
        let path = folder.path().join(name);
        assert!(TableWriter::knows(&path));
        assert_eq!(table(&path, ALL, &written), 30);
        let read: Vec<Row> = rows(&path);
        assert_eq!(read.len(), 30, "{name}");
        for (read, written) in read.iter().zip(&written) {
            assert_eq!(read.text, written.text, "{name}");
            assert_eq!((read.source.as_str(), &read.seeds), ("tiny-world", &written.seeds), "{name}");
            assert_eq!(
                (read.created_at_ms, &read.attributes),
                (written.created_at_ms, &written.attributes),
                "{name}"
            );
            assert_eq!(read.scores.similarity, written.similarity.map(f64::from), "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn columns_that_were_not_asked_for_are_not_written() {
    let folder = folder();
    let path = folder.path().join("t.csv");
    table(&path, Columns::default(), &[row("a", 0)]);
    let header = std::fs::read_to_string(&path).unwrap();
    assert!(header.starts_with("prompt_id,text,sources,created_at_ms,attributes,length\n"), "{header}");
    let path = folder.path().join("t.jsonl");
    table(&path, Columns { vectors: true, ..Columns::default() }, &[row("a \u{e9}", 0)]);
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(line["length"], 3);
    assert!(line.get("similarity").is_none() && line.get("seeds").is_none() && line.get("clip").is_none());
    assert_eq!(line["minilm"][3], 0.25);
}

#[test]
fn a_dropped_writer_leaves_the_existing_file_unchanged() {
    let folder = folder();
    for name in NAMES {
        let path = folder.path().join(name);
        std::fs::write(&path, "before").unwrap();
        let mut writer = TableWriter::create(&path, ALL).unwrap();
        writer.write(&[row("a", 0)]).unwrap();
        drop(writer);
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), NAMES.len(), "no temporary file is left");
}

#[test]
fn a_table_without_rows_is_written_and_read_back() {
    let folder = folder();
    for name in NAMES {
        let path = folder.path().join(name);
        assert_eq!(table(&path, ALL, &[]), 0);
        assert!(rows(&path).is_empty(), "{name}");
    }
}

#[test]
fn unknown_table_extensions_and_missing_folders_are_refused() {
    let folder = folder();
    for name in ["t.xlsx", "t", "t.parquet.gz", "t.gz"] {
        let path = folder.path().join(name);
        assert!(!TableWriter::knows(&path));
        let error = TableWriter::create(&path, ALL).unwrap_err();
        assert!(matches!(error, CorpusError::UnknownTable { .. }), "{name}");
    }
    let error = TableWriter::create(&folder.path().join("no/t.csv"), ALL).unwrap_err();
    assert!(matches!(error, CorpusError::Unwritable { .. }));
}
