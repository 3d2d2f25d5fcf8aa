//! How fast it is. `cargo test -p unprompt-corpus --test it -- --ignored --nocapture measure` prints it.

use std::time::Instant;

use unprompt_corpus::Corpus;
use unprompt_corpus::clean::Cleaning;
use unprompt_corpus::near::NearDuplicates;
use unprompt_corpus::table::{Columns, ExportRow, TableWriter};
use unprompt_schemas::identity::prompt_id;

use crate::near::{DIM, cloud, dot};
use crate::samples::{folder, options, prompts};

#[test]
#[ignore = "it measures"]
fn measure_reading_and_cleaning() {
    let folder = folder();
    let path = folder.path().join("million.parquet");
    let begun = Instant::now();
    let rows: Vec<_> = prompts(1_000_000)
        .into_iter()
        .map(|text| ExportRow {
            prompt_id: prompt_id(&text),
            text,
            sources: vec!["tiny-world".into()],
            ..ExportRow::default()
        })
        .collect();
    println!("made in {:.1} s", begun.elapsed().as_secs_f64());
    for name in ["million.parquet", "million.jsonl", "million.csv.gz"] {
        let path = path.with_file_name(name);
        let begun = Instant::now();
        let mut writer = TableWriter::create(&path, Columns::default()).unwrap();
        rows.chunks(4_096).for_each(|rows| writer.write(rows).unwrap());
        writer.finish().unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        println!("{name}: {:.0} rows/s written, {bytes} bytes", 1e6 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let mut corpus = Corpus::open(options(&[&path], Cleaning::default()), None).unwrap();
        while !corpus.next_chunk(1_000).unwrap().is_empty() {}
        println!("{name}: {:.0} rows/s read and cleaned", 1e6 / begun.elapsed().as_secs_f64());
    }
}

#[test]
#[ignore = "it measures"]
fn measure_near_duplicates() {
    let vectors = cloud(200_000, 9);
    let mut near = NearDuplicates::new(0.95, DIM).unwrap();
    let begun = Instant::now();
    let mut told = Vec::with_capacity(vectors.len());
    for part in vectors.chunks(50_000) {
        let begun = Instant::now();
        part.iter().for_each(|vector| told.push(near.check(vector).unwrap().is_some()));
        println!("{} kept: {:.0} vectors/s", near.kept(), part.len() as f64 / begun.elapsed().as_secs_f64());
    }
    println!("{:.0} vectors/s in all", vectors.len() as f64 / begun.elapsed().as_secs_f64());
    // Against every vector kept before, for some of the last.
    let (mut near_ones, mut missed) = (0, 0);
    for at in (150_001..200_000).step_by(250) {
        let exact = (0..at).any(|before| !told[before] && dot(&vectors[before], &vectors[at]) >= 0.95);
        near_ones += i32::from(exact);
        missed += i32::from(exact && !told[at]);
    }
    println!("{missed} of {near_ones} near duplicates missed");
}
