//! The format of an input: detected from its name, otherwise from its first bytes.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::CorpusError;
use crate::source::{Input, InputLocation, unpacked};

const PARQUET: &[u8] = b"PAR1";

/// A format, or a published schema that implies one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// metadata.parquet of DiffusionDB.
    DiffusionDb,
    /// The captions of COCO or VizWiz.
    CocoCaptions,
    /// COYO-700M's parquet.
    Coyo,
    /// Results of Lexica's search.
    Lexica,
    Parquet,
    Csv,
    Tsv,
    /// One object per line.
    Jsonl,
    /// One document: a list of objects, or an object that holds one as "annotations" or "images".
    Json,
    /// One prompt per line.
    Text,
}

impl Format {
    pub const ALL: [Self; 10] = [
        Self::DiffusionDb,
        Self::CocoCaptions,
        Self::Coyo,
        Self::Lexica,
        Self::Parquet,
        Self::Csv,
        Self::Tsv,
        Self::Jsonl,
        Self::Json,
        Self::Text,
    ];

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DiffusionDb => "diffusion-db",
            Self::CocoCaptions => "coco-captions",
            Self::Coyo => "coyo",
            Self::Lexica => "lexica",
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Text => "text",
        }
    }

    pub(super) fn is_parquet(self) -> bool {
        matches!(self, Self::Parquet | Self::DiffusionDb | Self::Coyo)
    }

    /// Detects the format from the name. If its extension is unknown or JSON, the first
    /// decompressed bytes decide.
    pub(super) fn of(name: &str, head: &[u8]) -> Result<Self, String> {
        let name = name.to_ascii_lowercase();
        let file = unpacked(&name).rsplit('/').next().unwrap_or_default();
        if head.starts_with(PARQUET) {
            return Ok(Self::Parquet);
        }
        match file.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => Ok(Self::Csv),
            Some("tsv") => Ok(Self::Tsv),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("txt" | "text") => Ok(Self::Text),
            Some("json") => Ok(if is_object_a_line(head) { Self::Jsonl } else { Self::Json }),
            _ if head.contains(&0) => Err("its bytes are no text".to_owned()),
            _ if is_object_a_line(head) => Ok(Self::Jsonl),
            _ if begins_like_document(head) => Ok(Self::Json),
            _ => Ok(Self::Text),
        }
    }
}

/// Returns whether to open an input as parquet. `said` is a parquet format from the options, and
/// decides unless the name is that of a compressed file. Otherwise the name or a file's first bytes
/// decide.
pub(super) fn looks_like_parquet(input: &Input, said: Option<Format>) -> bool {
    let named = input.name.to_ascii_lowercase().ends_with(".parquet");
    let begins = || match &input.location {
        InputLocation::File(path) => {
            let mut head = [0; 4];
            // Pipes can be read only once, so their first bytes are not read here.
            input.size.is_some()
                && File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok()
                && head == PARQUET
        }
        _ => false,
    };
    match said {
        Some(_) => ![".gz", ".zst", ".zstd"].iter().any(|ending| input.name.ends_with(ending)),
        None => named || begins(),
    }
}

/// Returns whether the first line is a whole object but not a whole document.
fn is_object_a_line(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let line = head.split(|&byte| byte == b'\n').find(|line| !line.iter().all(u8::is_ascii_whitespace));
    let object: Option<serde_json::Map<String, serde_json::Value>> =
        line.and_then(|line| serde_json::from_slice(line).ok());
    object.is_some_and(|object| {
        let has_text = ["text", "prompt", "caption"]
            .iter()
            .any(|key| object.get(*key).is_some_and(|text| text.is_string()));
        has_text || !object.values().any(|value| value.is_object() || is_rows(value))
    })
}

/// Returns whether the value is a list of objects: the rows of a document.
fn is_rows(value: &serde_json::Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().any(serde_json::Value::is_object))
}

fn begins_like_document(head: &[u8]) -> bool {
    let mut tokens = head.iter().filter(|byte| !byte.is_ascii_whitespace());
    matches!((tokens.next(), tokens.next()), (Some(b'{'), Some(b'"')) | (Some(b'['), Some(b'{')))
}

impl FromStr for Format {
    type Err = CorpusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            CorpusError::Options(format!("there is no format {text:?}; choose one of {names}"))
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
