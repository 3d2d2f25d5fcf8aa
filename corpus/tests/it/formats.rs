//! Arbitrary tables and texts, with arbitrary column names.

use std::sync::Arc;

use arrow_array::{ArrayRef, LargeStringArray, StringArray, StringViewArray};
use unprompt_corpus::reader::{Mapping, Reading};
use unprompt_corpus::{BadRow, CorpusError, MAX_ROW_BYTES, Row, source};

use crate::samples::{entries, folder, gzip, options, parquet, rows, rows_as, run, texts_of, write};

fn mapped(pairs: &[&str]) -> Reading {
    let mut mapping = Mapping::default();
    pairs.iter().for_each(|pair| mapping.set(pair).unwrap());
    Reading { mapping, ..Reading::default() }
}

#[test]
fn a_text_file_has_one_prompt_per_line_and_its_name_as_the_source() {
    let folder = folder();
    let rows = rows(&write(folder.path(), "some.txt", "\u{feff}a red star\r\n\n  a blue house  "));
    assert_eq!(texts_of(&rows), ["a red star", "a blue house"]);
    assert_eq!(rows[0].source, "some");
}

#[test]
fn json_lines_carry_source_seeds_and_attributes_and_a_bad_line_is_one_bad_row() {
    let folder = folder();
    let lines = "{\"text\":\"a\",\"source\":\"s\",\"seeds\":[1,2],\"attributes\":{\"k\":\"v\"}}\nnonsense\n{\"text\":5}\n\n\
                 {\"created_at\":\"2026-11-25T10:00:00Z\",\"text\":\"b\"}\n[1]\n";
    let entries = entries(&write(folder.path(), "p.jsonl", lines), &Reading::default()).unwrap();
    let row = entries[0].content.as_ref().unwrap();
    assert_eq!(
        (row.source.as_str(), row.seeds.as_slice(), row.attributes["k"].as_str()),
        ("s", &[1, 2][..], "v")
    );
    assert_eq!(entries[1].content, Err(BadRow::NotJson));
    assert_eq!(entries[2].content, Err(BadRow::NoText));
    let row = entries[3].content.as_ref().unwrap();
    assert_eq!((entries[3].row, row.text.as_str(), row.created_at_ms), (5, "b", Some(1_795_600_800_000)));
    assert_eq!(row.source, "p");
    assert_eq!(entries[4].content, Err(BadRow::NotJson));
}

#[test]
fn csv_with_quotes_line_breaks_and_a_byte_order_mark_is_read() {
    let folder = folder();
    let csv = "\u{feff}\"Prompt\",kind,score\r\n\"a \"\"red\"\" star,\nbig\",x,0.5\r\na blue house,y,1\r\nshort\r\n,z,2\r\n";
    let path = write(folder.path(), "t.csv", csv);
    let mut reading = mapped(&["text=Prompt", "aesthetic=score"]);
    reading.mapping.attributes = Some(vec!["kind".into()]);
    let entries = entries(&path, &reading).unwrap();
    let row = entries[0].content.as_ref().unwrap();
    assert_eq!((row.text.as_str(), row.attributes["kind"].as_str()), ("a \"red\" star,\nbig", "x"));
    assert_eq!(row.scores.aesthetic, Some(0.5));
    assert_eq!(entries[1].content.as_ref().unwrap().text, "a blue house");
    assert_eq!(entries[2].content, Err(BadRow::FieldCount));
    assert_eq!(entries[3].content.as_ref().unwrap().text, "");
    assert_eq!(
        texts_of(&rows(&write(folder.path(), "u.csv", "n,Prompt\n1,a\n"))),
        ["a"],
        "column names are case-insensitive"
    );
}

#[test]
fn tsv_without_a_header_has_numbered_columns() {
    let folder = folder();
    let path = write(folder.path(), "t.tsv", "1\ta red star\n2\ta blue house\n");
    let reading = Reading { no_header: true, ..mapped(&["text=2"]) };
    assert_eq!(texts_of(&rows_as(&path, &reading)), ["a red star", "a blue house"]);
}

#[test]
fn a_missing_column_error_lists_the_existing_columns() {
    let folder = folder();
    let path = write(folder.path(), "t.csv", "one,two\n1,2\n");
    let error = entries(&path, &Reading::default()).unwrap_err().to_string();
    assert!(
        error.contains("\"text\"") && error.contains("one, two") && error.contains("--column"),
        "{error}"
    );
    let error = entries(&path, &mapped(&["text=three"])).unwrap_err().to_string();
    assert!(error.contains("\"three\""), "{error}");
    assert!(Mapping::default().set("colour=x").unwrap_err().to_string().contains("seeds"));
}

#[test]
fn every_kind_of_text_column_in_parquet_is_read() {
    let folder = folder();
    let texts = ["a red star", "a blue house", "a red star"];
    let dictionary: arrow_array::DictionaryArray<arrow_array::types::Int32Type> = texts.into_iter().collect();
    let arrays: [ArrayRef; 4] = [
        Arc::new(StringArray::from(texts.to_vec())),
        Arc::new(LargeStringArray::from(texts.to_vec())),
        Arc::new(StringViewArray::from(texts.to_vec())),
        Arc::new(dictionary),
    ];
    for array in arrays {
        let kind = array.data_type().to_string();
        let other: ArrayRef = Arc::new(StringArray::from(vec!["x"; 3]));
        let path = parquet(folder.path(), "t.parquet", vec![("other", other), ("caption", array)]);
        assert_eq!(texts_of(&rows(&path)), texts, "{kind}");
    }
    let null: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let path = parquet(folder.path(), "n.parquet", vec![("text", null)]);
    assert_eq!(entries(&path, &Reading::default()).unwrap()[1].content, Err(BadRow::NoText));
}

#[test]
fn gzip_of_many_members_and_zstd_of_many_frames_are_read_whole() {
    let folder = folder();
    let parts: [&[u8]; 2] = [b"a red star\na blue", b" house\n"];
    let gz = write(folder.path(), "p.txt.gz", parts.map(gzip).concat());
    let zst =
        write(folder.path(), "q.txt.zst", parts.map(|part| zstd::encode_all(part, 1).unwrap()).concat());
    for (path, source) in [(gz, "p"), (zst, "q")] {
        let rows = rows(&path);
        assert_eq!(texts_of(&rows), ["a red star", "a blue house"]);
        assert_eq!(rows[1].source, source);
    }
}

#[test]
fn content_decides_the_format_when_the_file_name_does_not() {
    let folder = folder();
    let kinds: [(&str, &[u8]); 4] = [
        ("lines", b"{\"prompt\":\"a\",\"attributes\":{}}\n{\"prompt\":\"b\"}\n"),
        ("lines.json", b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n"),
        ("list", b" [ {\"caption\":\"a\"}, {\"caption\":\"b\"} ]"),
        ("plain", b"a\nb\n"),
    ];
    for (name, content) in kinds {
        assert_eq!(texts_of(&rows(&write(folder.path(), name, content))), ["a", "b"], "{name}");
    }
    let table: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let path = parquet(folder.path(), "table", vec![("text", table)]);
    assert_eq!(texts_of(&rows(&path)), ["a", "b"]);
    let binary = write(folder.path(), "binary", [1, 0, 2, 0]);
    assert!(matches!(entries(&binary, &Reading::default()), Err(CorpusError::UnknownFormat { .. })));
}

#[test]
fn an_oversized_row_is_one_bad_row_and_the_next_is_read() {
    let folder = folder();
    let long = "x".repeat(MAX_ROW_BYTES + 10);
    for name in ["p.txt", "p.csv", "p.jsonl"] {
        let (head, row) = match name {
            "p.csv" => ("text\n", "a red star"),
            "p.jsonl" => ("", "{\"text\":\"a red star\"}"),
            _ => ("", "a red star"),
        };
        let path = write(folder.path(), name, format!("{head}{long}\n{row}\n"));
        let entries = entries(&path, &Reading::default()).unwrap();
        assert_eq!(entries[0].content, Err(BadRow::Oversized), "{name}");
        assert_eq!(entries[1].content.as_ref().unwrap().text, "a red star", "{name}");
    }
    let document = format!("[{{\"text\":\"{long}\"}},{{\"text\":\"a red star\"}}]");
    let entries = entries(&write(folder.path(), "p.json", document), &Reading::default()).unwrap();
    assert_eq!(entries[0].content, Err(BadRow::Oversized));
    assert_eq!(entries[1].content.as_ref().unwrap().text, "a red star");
}

#[test]
fn the_row_size_limit_excludes_the_line_end() {
    let folder = folder();
    let (longest, longer) = ("x".repeat(MAX_ROW_BYTES), "x".repeat(MAX_ROW_BYTES + 1));
    for (name, head) in [("p.txt", ""), ("p.csv", "text\n")] {
        for end in ["\n", ""] {
            let path = write(folder.path(), name, format!("{head}{longer}\n{longest}{end}"));
            let entries = entries(&path, &Reading::default()).unwrap();
            assert_eq!(entries[0].content, Err(BadRow::Oversized), "{name}");
            assert_eq!(entries[1].content.as_ref().unwrap().text.len(), MAX_ROW_BYTES, "{name}");
        }
    }
}

#[test]
fn invalid_utf8_is_a_bad_row() {
    let folder = folder();
    for (name, content) in [("p.txt", b"\xff\xfe\nb\n".to_vec()), ("p.csv", b"text\n\xff\nb\n".to_vec())] {
        let entries = entries(&write(folder.path(), name, content), &Reading::default()).unwrap();
        assert_eq!(entries[0].content, Err(BadRow::NotUtf8), "{name}");
        assert_eq!(entries[1].content.as_ref().unwrap().text, "b", "{name}");
    }
}

#[test]
fn a_decompression_bomb_is_one_oversized_row() {
    let folder = folder();
    let zeros = vec![b'0'; 64 << 20];
    let path = write(folder.path(), "bomb.txt.gz", gzip(&zeros));
    let entries = entries(&path, &Reading::default()).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].content, Err(BadRow::Oversized));
}

#[test]
fn folders_and_globs_are_read_in_the_order_of_their_names() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    for (name, text) in
        [("b.txt", "b"), ("a.csv", "text\na\n"), ("sub/c.txt", "c"), ("_meta.txt", "no"), ("d.png", "no")]
    {
        write(folder.path(), name, text);
    }
    let (kept, report) = run(options(&[folder.path()], Default::default())).unwrap();
    let rows: Vec<Row> = kept.into_iter().map(|clean| clean.row).collect();
    assert_eq!(texts_of(&rows), ["a", "b", "c"]);
    assert_eq!(report.inputs.len(), 3);
    let (kept, _) = run(options(&[&folder.path().join("*.txt")], Default::default())).unwrap();
    assert_eq!(kept.len(), 2, "a glob reads only the files that it matches");
    let missing = source::expand(&[folder.path().join("none").to_str().unwrap().to_owned()]).unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
    assert!(source::expand(&[folder.path().join("*.nothing").to_str().unwrap().to_owned()]).is_err());
    assert!(source::expand(&["-".into(), "-".into()]).is_err(), "standard input is read only once");
}
