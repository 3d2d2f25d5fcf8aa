//! The meanings of columns, in published schemas and in other tables.
//!
//! * DiffusionDB's metadata.parquet (the data set's card at
//!   huggingface.co/datasets/poloclub/diffusiondb): image_name, prompt, part_id, seed, step, cfg,
//!   sampler, width, height, user_name, timestamp, image_nsfw, prompt_nsfw (0 to 1; 2 if the
//!   picture was blurred).
//! * COYO-700M (the card at huggingface.co/datasets/kakaobrain/coyo-700m): id, url, text, width,
//!   height, image_phash, text_length, word_count, num_tokens_bert, num_tokens_gpt, num_faces,
//!   clip_similarity_vitb32, clip_similarity_vitl14, nsfw_score_opennsfw2, nsfw_score_gantman,
//!   watermark_score, aesthetic_score_laion_v2.
//! * COCO's and VizWiz' captions: {"images": […], "annotations": [{"image_id", "id", "caption"}]};
//!   VizWiz adds is_precanned, is_rejected and text_detected, and its users leave out precanned and
//!   rejected captions.
//! * Lexica's search (the types of github.com/transitive-bullshit/lexica-api): {"images": [{id,
//!   gallery, src, srcSmall, prompt, width, height, seed, grid, model, guidance, promptid, nsfw}]}.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::CorpusError;
use crate::row::{BadRow, Row, Scores};

const TEXT: &[&str] = &["text", "prompt", "caption"];
const SOURCE: &[&str] = &["source", "sources"];
const SEEDS: &[&str] = &["seeds"];
const CREATED_AT: &[&str] = &["created_at_ms", "created_at", "timestamp"];
const SIMILARITY: &[&str] = &["clip_similarity_vitb32", "clip_similarity_vitl14", "similarity"];
const AESTHETIC: &[&str] = &["aesthetic_score_laion_v2", "aesthetic_score", "aesthetic"];
const NSFW: &[&str] =
    &["nsfw_score_opennsfw2", "nsfw_score_gantman", "prompt_nsfw", "image_nsfw", "nsfw", "punsafe"];

/// The columns of each meaning. Columns without a name here are found by their usual names.
///
/// Seeds come from a column `seeds` only. Each of them is a picture to generate, while
/// DiffusionDB's `seed` belongs to a picture that already exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    pub text: Option<String>,
    pub source: Option<String>,
    pub seeds: Option<String>,
    pub created_at: Option<String>,
    pub similarity: Option<String>,
    pub aesthetic: Option<String>,
    pub nsfw: Option<String>,
    /// The columns kept as attributes; none for those of the data set's schema.
    pub attributes: Option<Vec<String>>,
}

impl Mapping {
    /// Parses `meaning=column`.
    ///
    /// # Errors
    /// [`CorpusError::Options`] for an unknown meaning.
    pub fn set(&mut self, pair: &str) -> Result<(), CorpusError> {
        let wrong = || {
            let meanings = "text, source, seeds, created_at, similarity, aesthetic or nsfw";
            CorpusError::Options(format!("{pair:?} is no MEANING=COLUMN; MEANING is {meanings}"))
        };
        let (meaning, column) = pair.split_once('=').ok_or_else(wrong)?;
        let slot = match meaning {
            "text" => &mut self.text,
            "source" => &mut self.source,
            "seeds" => &mut self.seeds,
            "created_at" => &mut self.created_at,
            "similarity" => &mut self.similarity,
            "aesthetic" => &mut self.aesthetic,
            "nsfw" => &mut self.nsfw,
            _ => return Err(wrong()),
        };
        *slot = Some(column.to_owned());
        Ok(())
    }

    /// Returns the columns named here, which every table must have.
    fn named(&self) -> impl Iterator<Item = &String> {
        let single = [&self.text, &self.source, &self.seeds, &self.created_at];
        let scores = [&self.similarity, &self.aesthetic, &self.nsfw];
        single.into_iter().chain(scores).flatten().chain(self.attributes.iter().flatten())
    }
}

/// A published schema: the source name of its prompts and the columns worth keeping.
#[derive(Clone, Copy, Debug)]
struct Schema {
    /// The columns that identify the schema if all are present.
    told_by: &'static [&'static str],
    source: &'static str,
    attributes: &'static [&'static str],
}

const SCHEMAS: [Schema; 5] = [
    Schema {
        told_by: &["prompt", "prompt_nsfw"],
        source: "diffusiondb",
        attributes: &["image_name", "seed", "step", "cfg", "sampler"],
    },
    Schema { told_by: &["text", "clip_similarity_vitb32"], source: "coyo-700m", attributes: &["url"] },
    Schema { told_by: &["caption", "image_id", "is_precanned"], source: "vizwiz", attributes: &["image_id"] },
    Schema { told_by: &["caption", "image_id"], source: "coco", attributes: &["image_id"] },
    Schema {
        told_by: &["prompt", "promptid", "src"],
        source: "lexica",
        attributes: &["id", "seed", "model", "guidance"],
    },
];

/// The interpretation of one input's columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub mapping: Mapping,
    /// The source of prompts without a source of their own, if the caller gives one.
    pub source: Option<String>,
    /// The source otherwise.
    pub stem: String,
}

/// The columns of each meaning, by number.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    text: usize,
    source: Option<usize>,
    seeds: Option<usize>,
    created_at: Option<usize>,
    similarity: Option<usize>,
    aesthetic: Option<usize>,
    nsfw: Vec<usize>,
    attributes: Vec<(String, usize)>,
    /// A column with a map of attributes.
    attribute_map: Option<usize>,
    default_source: String,
}

impl Columns {
    /// Chooses the columns of a table whose rows all have the same columns.
    ///
    /// # Errors
    /// [`CorpusError::NoColumn`] if a named column or the text is missing.
    pub fn choose(&self, names: &[String], input: &str) -> Result<Chosen, CorpusError> {
        let absent = |column: &str| CorpusError::NoColumn {
            input: input.to_owned(),
            column: column.to_owned(),
            columns: listed(names),
        };
        if let Some(column) = self.mapping.named().find(|column| !names.contains(column)) {
            return Err(absent(column));
        }
        self.choose_any(names).ok_or_else(|| absent("text"))
    }

    /// Chooses the columns of one object; none if it has no text.
    pub fn choose_any(&self, names: &[String]) -> Option<Chosen> {
        let mapping = &self.mapping;
        let schema =
            SCHEMAS.iter().find(|schema| schema.told_by.iter().all(|name| find(names, name).is_some()));
        let default_source = self.source.as_deref().or(schema.map(|schema| schema.source));
        let suggested =
            schema.map_or(&[][..], |schema| schema.attributes).iter().map(|name| name.to_string());
        let wanted = mapping.attributes.clone().unwrap_or_else(|| suggested.collect());
        let attributes =
            wanted.into_iter().filter_map(|name| find(names, &name).map(|column| (name, column)));
        Some(Chosen {
            text: pick(names, mapping.text.as_ref(), TEXT)?,
            source: pick(names, mapping.source.as_ref(), SOURCE),
            seeds: pick(names, mapping.seeds.as_ref(), SEEDS),
            created_at: pick(names, mapping.created_at.as_ref(), CREATED_AT),
            similarity: pick(names, mapping.similarity.as_ref(), SIMILARITY),
            aesthetic: pick(names, mapping.aesthetic.as_ref(), AESTHETIC),
            nsfw: match &mapping.nsfw {
                Some(name) => find(names, name).into_iter().collect(),
                None => NSFW.iter().filter_map(|name| find(names, name)).collect(),
            },
            attributes: attributes.collect(),
            attribute_map: if mapping.attributes.is_none() { find(names, "attributes") } else { None },
            default_source: default_source.unwrap_or(&self.stem).to_owned(),
        })
    }
}

impl Chosen {
    pub fn text(&self) -> usize {
        self.text
    }

    /// Returns all columns that are read, sorted.
    pub fn all(&self) -> Vec<usize> {
        let single = [self.source, self.seeds, self.created_at, self.similarity, self.aesthetic];
        let mut all: Vec<usize> = single.into_iter().chain([self.attribute_map]).flatten().collect();
        all.push(self.text);
        all.extend(&self.nsfw);
        all.extend(self.attributes.iter().map(|(_, column)| column));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns a row; `get` returns a field as text.
    pub fn row<'a>(&self, get: &dyn Fn(usize) -> Option<Cow<'a, str>>) -> Result<Row, BadRow> {
        let text = get(self.text).ok_or(BadRow::NoText)?.into_owned();
        let number = |column: Option<usize>| column.and_then(get).and_then(|text| score(&text));
        let nsfw = self.nsfw.iter().filter_map(|column| number(Some(*column)));
        let source = self.source.and_then(get).and_then(|text| first_source(&text));
        let scores = Scores {
            similarity: number(self.similarity),
            aesthetic: number(self.aesthetic),
            nsfw: nsfw.reduce(f64::max),
        };
        Ok(Row {
            text,
            source: source.unwrap_or_else(|| self.default_source.clone()),
            seeds: self.seeds.and_then(get).map(|text| seeds(&text)).unwrap_or_default(),
            attributes: self.attributes(get),
            created_at_ms: self.created_at.and_then(get).and_then(|text| milliseconds(&text)),
            scores,
        })
    }

    fn attributes<'a>(&self, get: &dyn Fn(usize) -> Option<Cow<'a, str>>) -> BTreeMap<String, String> {
        let map = self.attribute_map.and_then(get);
        let mut attributes: BTreeMap<String, String> =
            map.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        for (name, column) in &self.attributes {
            if let Some(value) = get(*column).filter(|value| !value.is_empty()) {
                attributes.insert(name.clone(), value.into_owned());
            }
        }
        attributes
    }
}

/// Finds a column by name, ignoring ASCII case if there is no exact match.
fn find(names: &[String], name: &str) -> Option<usize> {
    let exact = names.iter().position(|other| other == name);
    exact.or_else(|| names.iter().position(|other| other.eq_ignore_ascii_case(name)))
}

/// Returns the named column; without a name, the first column with a usual name.
fn pick(names: &[String], named: Option<&String>, usual: &[&str]) -> Option<usize> {
    match named {
        Some(name) => find(names, name),
        None => usual.iter().find_map(|name| find(names, name)),
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 30;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, …") } else { shown }
}

/// Parses a number, or a boolean as 1 or 0.
fn score(text: &str) -> Option<f64> {
    match text.trim() {
        "true" | "True" => Some(1.0),
        "false" | "False" => Some(0.0),
        number => number.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

/// Parses one source, or the first of a JSON list.
fn first_source(text: &str) -> Option<String> {
    let source = match text.starts_with('[') {
        true => serde_json::from_str::<Vec<String>>(text).ok()?.into_iter().next()?,
        false => text.to_owned(),
    };
    (!source.is_empty()).then_some(source)
}

/// Parses one seed, or a JSON list of seeds.
fn seeds(text: &str) -> Vec<i64> {
    let one = || text.trim().parse::<i64>().map(|seed| vec![seed]);
    serde_json::from_str(text).or_else(|_| one()).unwrap_or_default()
}

/// Parses milliseconds since 1970, or an ISO 8601 date and time.
fn milliseconds(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        arrow_cast::parse::string_to_timestamp_nanos(text).ok().map(|nanoseconds| nanoseconds / 1_000_000)
    })
}
