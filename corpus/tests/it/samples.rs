//! Small files in each published schema, with prompts of our own grammar.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray, UInt16Array, UInt32Array,
};
use arrow_array::{TimestampMicrosecondArray, UInt8Array};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use unprompt_corpus::clean::Cleaning;
use unprompt_corpus::reader::{Reader, Reading, RowEntry};
use unprompt_corpus::report::CorpusReport;
use unprompt_corpus::{Clean, Corpus, CorpusError, Options, Row, source};
use unprompt_tiny_world::{Grammar, Split};

/// The first prompts of the grammar.
pub fn prompts(count: usize) -> Vec<String> {
    Grammar::new(7).scenes(Split::Train).take(count).map(|scene| scene.prompt()).collect()
}

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Writes a parquet table in row groups of a few rows.
pub fn parquet(folder: &Path, name: &str, columns: Vec<(&str, ArrayRef)>) -> PathBuf {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let path = folder.join(name);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(16)).build();
    let file = File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

fn texts<S: Into<String>>(values: impl IntoIterator<Item = S>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values.into_iter().map(Into::into)))
}

/// Writes metadata.parquet in DiffusionDB's schema; every fourth picture was blurred by the filter.
pub fn diffusion_db(folder: &Path, texts_in: &[String]) -> PathBuf {
    let count = texts_in.len() as u32;
    let numbers = |value: u16| Arc::new(UInt16Array::from(vec![value; count as usize])) as ArrayRef;
    let time = |row: u32| 1_659_000_000_000_000 + i64::from(row) * 1_000_000;
    let nsfw = |row: u32| if row % 4 == 3 { 2.0 } else { 0.1 };
    parquet(
        folder,
        "metadata.parquet",
        vec![
            ("image_name", texts((0..count).map(|row| format!("{row:08}.png")))),
            ("prompt", texts(texts_in.iter().cloned())),
            ("part_id", numbers(1)),
            ("seed", Arc::new(UInt32Array::from_iter_values((0..count).map(|row| 4_000_000_000 + row)))),
            ("step", numbers(50)),
            ("cfg", Arc::new(Float32Array::from(vec![7.5; count as usize]))),
            ("sampler", Arc::new(UInt8Array::from(vec![8; count as usize]))),
            ("width", numbers(512)),
            ("height", numbers(512)),
            ("user_name", texts((0..count).map(|_| "00aa"))),
            (
                "timestamp",
                Arc::new(
                    TimestampMicrosecondArray::from_iter_values((0..count).map(time)).with_timezone("UTC"),
                ),
            ),
            ("image_nsfw", Arc::new(Float32Array::from_iter_values((0..count).map(nsfw)))),
            ("prompt_nsfw", Arc::new(Float32Array::from(vec![0.01; count as usize]))),
        ],
    )
}

/// Writes a part of COYO-700M; the similarity rises from row to row, from 0.
pub fn coyo(folder: &Path, texts_in: &[String]) -> PathBuf {
    let count = texts_in.len();
    let floats = |value: f32| Arc::new(Float32Array::from(vec![value; count])) as ArrayRef;
    let rising = (0..count).map(|row| row as f32 / count as f32);
    let ints = |value: i32| Arc::new(Int32Array::from(vec![value; count])) as ArrayRef;
    parquet(
        folder,
        "part-00000.parquet",
        vec![
            (
                "id",
                Arc::new(Int64Array::from_iter_values((0..count).map(|row| 841_814_333_321 + row as i64))),
            ),
            ("url", texts((0..count).map(|row| format!("https://example.com/{row}.jpg")))),
            ("text", texts(texts_in.iter().cloned())),
            ("width", ints(1000)),
            ("height", ints(988)),
            ("image_phash", texts((0..count).map(|_| "c9b6a7d8469c1959"))),
            ("text_length", ints(59)),
            ("word_count", ints(11)),
            ("num_tokens_bert", ints(13)),
            ("num_tokens_gpt", ints(12)),
            ("num_faces", ints(0)),
            ("clip_similarity_vitb32", Arc::new(Float32Array::from_iter_values(rising))),
            ("clip_similarity_vitl14", floats(0.3)),
            ("nsfw_score_opennsfw2", floats(0.001)),
            ("nsfw_score_gantman", floats(0.03)),
            ("watermark_score", floats(0.1)),
            ("aesthetic_score_laion_v2", floats(5.4)),
        ],
    )
}

/// Writes captions_val2017.json of COCO.
pub fn coco(folder: &Path, texts: &[String]) -> PathBuf {
    let captions = texts
        .iter()
        .enumerate()
        .map(|(at, caption)| json!({"image_id": at / 2, "id": at, "caption": caption}));
    let document = json!({
        "info": {"description": "COCO 2017 Dataset", "year": 2017, "images": [1, {"annotations": []}]},
        "licenses": [{"url": "http://example.com", "id": 1, "name": "a \"licence\" ]}"}],
        "images": (0..texts.len() / 2).map(picture).collect::<Vec<_>>(),
        "annotations": captions.collect::<Vec<_>>(),
    });
    write(folder, "captions_val2017.json", document.to_string())
}

fn picture(id: usize) -> Value {
    json!({"license": 4, "file_name": format!("{id:012}.jpg"), "height": 427, "width": 640, "id": id})
}

/// Writes val.json of VizWiz; every fifth caption is rejected.
pub fn vizwiz(folder: &Path, texts: &[String]) -> PathBuf {
    let captions = texts.iter().enumerate().map(|(at, caption)| {
        json!({"caption": caption, "image_id": at, "is_precanned": false, "is_rejected": at % 5 == 4, "id": at, "text_detected": true})
    });
    let images = (0..texts.len())
        .map(|id| json!({"file_name": format!("VizWiz_val_{id:08}.jpg"), "id": id, "text_detected": true}));
    let document = json!({
        "info": {"description": "This dataset contains crowdsourced captions of images from VizWiz."},
        "images": images.collect::<Vec<_>>(),
        "annotations": captions.collect::<Vec<_>>(),
    });
    write(folder, "val.json", serde_json::to_string_pretty(&document).unwrap())
}

/// Writes an answer of Lexica's search; every third picture is not safe.
pub fn lexica(folder: &Path, texts: &[String]) -> PathBuf {
    let images = texts.iter().enumerate().map(|(at, prompt)| {
        json!({
            "id": format!("id-{at}"), "gallery": "https://lexica.art?prompt=x", "src": "https://image.lexica.art/x",
            "srcSmall": "https://image.lexica.art/y", "prompt": prompt, "width": 512, "height": 512, "seed": "1718",
            "grid": false, "model": "stable-diffusion", "guidance": 7, "promptid": format!("p-{at}"), "nsfw": at % 3 == 2,
        })
    });
    write(folder, "lexica.json", json!({"images": images.collect::<Vec<_>>()}).to_string())
}

/// Reads every row of a file, or the reason why it could not be read.
pub fn entries(path: &Path, reading: &Reading) -> Result<Vec<RowEntry>, CorpusError> {
    let inputs = source::expand(&[path.to_str().unwrap().to_owned()])?;
    Reader::open(&inputs[0], reading)?.collect()
}

/// Reads the rows of a file without bad ones.
pub fn rows(path: &Path) -> Vec<Row> {
    rows_as(path, &Reading::default())
}

pub fn rows_as(path: &Path, reading: &Reading) -> Vec<Row> {
    entries(path, reading).unwrap().into_iter().map(|entry| entry.content.unwrap()).collect()
}

pub fn texts_of(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.text.as_str()).collect()
}

pub fn options(sources: &[&Path], cleaning: Cleaning) -> Options {
    let sources = sources.iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    Options { sources, cleaning, ..Options::default() }
}

/// Reads all kept rows and the report.
pub fn run(options: Options) -> Result<(Vec<Clean>, CorpusReport), CorpusError> {
    let mut corpus = Corpus::open(options, None)?;
    let mut kept = Vec::new();
    loop {
        let chunk = corpus.next_chunk(7)?;
        if chunk.is_empty() {
            break;
        }
        kept.extend(chunk);
    }
    let report = corpus.report();
    assert!(report.adds_up(), "{report}");
    Ok((kept, report))
}

/// Reads every row of an input that can be read to its end.
pub fn entries_of(input: &source::Input) -> Vec<RowEntry> {
    Reader::open(input, &Reading::default()).unwrap().collect::<Result<_, _>>().unwrap()
}
