//! The records on the wire. Each type has its Avro schema in `avro/`; tests keep the two in
//! agreement.
//!
//! Vectors have unit L2 norm unless said otherwise, and times are milliseconds since the Unix
//! epoch.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::SchemaError;
use crate::codec::{self, Codec};
use crate::datum::datum;
use crate::history::{Fingerprint, WriterSchema};
use crate::identity;
pub use crate::record::Record;
use crate::record::sealed;
use crate::topics::Topic;

/// The longest prompt, in bytes of UTF-8.
pub const PROMPT_MAX_BYTES: usize = 64 * 1024;
/// The longest source of a prompt, in bytes.
pub const SOURCE_MAX_BYTES: usize = 1024;
/// The names and values of a prompt's attributes together, at most, in bytes.
pub const ATTRIBUTES_MAX_BYTES: usize = 64 * 1024;
/// The source of a prompt that is published as bare text.
pub const PLAIN_TEXT_SOURCE: &str = "text/plain";

/// A record's current schema, independent of its Rust type.
#[derive(Copy, Clone, Debug)]
pub struct CurrentSchema {
    /// [`Record::NAME`].
    pub record: &'static str,
    pub topic: Topic,
    pub json: &'static str,
    pub fingerprint: Fingerprint,
}

impl CurrentSchema {
    fn of<R: Record>() -> Self {
        let fingerprint = R::fingerprint();
        Self { record: R::NAME, topic: R::TOPIC, json: R::SCHEMA_JSON, fingerprint }
    }

    /// Returns the current schema of every record.
    pub fn all() -> [Self; 5] {
        [
            Self::of::<Prompt>(),
            Self::of::<ImageEmbedding>(),
            Self::of::<PromptEmbedding>(),
            Self::of::<Head>(),
            Self::of::<Prediction>(),
        ]
    }
}

macro_rules! record {
    ($topic:ident, $file:literal, $type:ident { $($field:ident),* $(,)? }) => {
        datum!($type { $($field),* });

        impl Record for $type {
            const NAME: &'static str = stringify!($type);
            const TOPIC: Topic = Topic::$topic;
            const SCHEMA_JSON: &'static str = include_str!(concat!("../avro/", $file));
        }

        impl sealed::Formed for $type {
            #[allow(private_interfaces, reason = "sealed: only this crate implements and calls it")]
            fn form() -> &'static WriterSchema {
                static FORM: LazyLock<WriterSchema> = LazyLock::new(|| {
                    WriterSchema::parse($type::SCHEMA_JSON).expect("a test reads every current schema")
                });
                &FORM
            }

            fn fingerprint() -> Fingerprint {
                static FINGERPRINT: LazyLock<Fingerprint> =
                    LazyLock::new(|| Fingerprint::of(<$type as Record>::schema()));
                *FINGERPRINT
            }
        }
    };
}

record!(Prompts, "prompt.avsc", Prompt { text, source, seeds, attributes });
record!(
    ImageEmbeddings,
    "image_embedding.avsc",
    ImageEmbedding {
        image_id,
        prompt_id,
        vectors,
        source_key,
        source_topic,
        source_partition,
        source_offset,
        created_at_ms
    }
);
record!(
    PromptEmbeddings,
    "prompt_embedding.avsc",
    PromptEmbedding { prompt_id, text, source, attributes, created_at_ms, minilm, clip }
);
record!(
    Heads,
    "head.avsc",
    Head { name, path, sha256, encoder, minilm, metrics, blend_weight, calibration, created_at_ms }
);
record!(
    Predictions,
    "prediction.avsc",
    Prediction {
        image_id,
        source_key,
        source_topic,
        source_partition,
        source_offset,
        vector,
        knn_vector,
        head_vector,
        neighbours,
        expected_cosine,
        encoder,
        head,
        index,
        blend,
        created_at_ms
    }
);
datum!(NamedVector { model, values });
datum!(Neighbour { prompt_id, text, similarity, weight });

/// A prompt to embed and, if it has seeds, to generate pictures from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    pub text: String,
    /// The prompt's origin, for example the name of a data set.
    pub source: String,
    /// One picture is generated for each seed; without seeds, the prompt is only indexed.
    pub seeds: Vec<i64>,
    pub attributes: BTreeMap<String, String>,
}

impl Prompt {
    /// Reads a value of prompts.v1: Avro in either framing, otherwise bare UTF-8 text.
    ///
    /// Bare text loses the white space and byte order mark around it, and gets the source
    /// [`PLAIN_TEXT_SOURCE`] and no seeds.
    ///
    /// # Errors
    /// [`SchemaError::EmptyPrompt`], [`SchemaError::PromptTooLong`],
    /// [`SchemaError::PromptNotUtf8`], [`SchemaError::TooLong`], and those of [`Codec::decode`].
    pub fn from_record(value: &[u8], codec: &Codec) -> Result<Self, SchemaError> {
        let prompt: Self =
            if codec::is_framed(value) { codec.decode(value)? } else { Self::from_text(value)? };
        check_prompt_text(&prompt.text)?;
        check_details(&prompt.source, &prompt.attributes)?;
        Ok(prompt)
    }

    /// Returns the prompt's identity.
    pub fn id(&self) -> Uuid {
        identity::prompt_id(&self.text)
    }

    fn from_text(value: &[u8]) -> Result<Self, SchemaError> {
        let text = str::from_utf8(value)
            .map_err(|error| SchemaError::PromptNotUtf8 { position: error.valid_up_to() })?;
        let text = text.trim_start_matches('\u{feff}').trim();
        Ok(Self { text: text.to_owned(), source: PLAIN_TEXT_SOURCE.to_owned(), ..Self::default() })
    }
}

fn check_prompt_text(text: &str) -> Result<(), SchemaError> {
    if text.len() > PROMPT_MAX_BYTES {
        return Err(SchemaError::PromptTooLong { length: text.len(), limit: PROMPT_MAX_BYTES });
    }
    if text.trim().is_empty() { Err(SchemaError::EmptyPrompt) } else { Ok(()) }
}

fn check_details(source: &str, attributes: &BTreeMap<String, String>) -> Result<(), SchemaError> {
    let too_long = |what, length, limit| Err(SchemaError::TooLong { what, length, limit });
    let attributes = attributes_bytes(attributes);
    match source.len() {
        length if length > SOURCE_MAX_BYTES => too_long("source", length, SOURCE_MAX_BYTES),
        _ if attributes > ATTRIBUTES_MAX_BYTES => too_long("attributes", attributes, ATTRIBUTES_MAX_BYTES),
        _ => Ok(()),
    }
}

/// Returns the bytes of the names and values of attributes; see [`ATTRIBUTES_MAX_BYTES`].
pub fn attributes_bytes(attributes: &BTreeMap<String, String>) -> usize {
    attributes.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// A vector and the model that made it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedVector {
    /// The name of the vector space: `name@revision` of the model. A picture's vector that was made
    /// at another side than the trained one has `;side=` and the side in pixels after it.
    pub model: String,
    pub values: Vec<f32>,
}

/// The fault of a vector that cannot be compared or indexed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum VectorFault {
    #[error("has {got} values where {expected} are expected; encode it again with the configured model")]
    Dimension { expected: usize, got: usize },
    #[error("holds a value that is not finite; repair what made it and publish the record again")]
    NotFinite,
    #[error("has no direction (its length is {length:e}); publish a vector of length 1")]
    NoDirection { length: f64 },
}

/// The lengths of vectors whose cosines can be computed in f32. Ours have length 1.
const LENGTHS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

impl VectorFault {
    /// Returns the code of its dead letter.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Dimension { .. } => "dimension",
            Self::NotFinite => "not-finite",
            Self::NoDirection { .. } => "no-direction",
        }
    }
}

/// Checks a vector as [`NamedVector::check`] does.
///
/// # Errors
/// The first fault.
pub fn check_vector(values: &[f32], dims: usize) -> Result<(), VectorFault> {
    let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    match values.len() {
        got if got != dims => Err(VectorFault::Dimension { expected: dims, got }),
        _ if !length.is_finite() => Err(VectorFault::NotFinite),
        _ if !LENGTHS.contains(&length) => Err(VectorFault::NoDirection { length }),
        _ => Ok(()),
    }
}

impl NamedVector {
    /// Checks that the vector has `dims` values, all finite, and a direction: a vector of zeros has
    /// no cosine with any other.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self, dims: usize) -> Result<(), VectorFault> {
        check_vector(&self.values, dims)
    }
}

/// A picture's vectors, one per configured encoder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageEmbedding {
    pub image_id: Uuid,
    /// The prompt that the picture was generated from, if known.
    pub prompt_id: Option<Uuid>,
    pub vectors: Vec<NamedVector>,
    #[serde(with = "apache_avro::serde_avro_bytes_opt")]
    pub source_key: Option<Vec<u8>>,
    pub source_topic: String,
    pub source_partition: i32,
    pub source_offset: i64,
    pub created_at_ms: i64,
}

/// A prompt with its two vectors. A record with the prompt_id as key and a null value deletes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptEmbedding {
    pub prompt_id: Uuid,
    pub text: String,
    pub source: String,
    pub attributes: BTreeMap<String, String>,
    pub created_at_ms: i64,
    /// 384 components.
    pub minilm: NamedVector,
    /// The embedding by the text tower of the image encoder.
    pub clip: NamedVector,
}

impl PromptEmbedding {
    /// Checks the limits of a prompt's text, source and attributes, which [`Prompt::from_record`]
    /// checks, too: not every embedding comes from a text-encoder.
    ///
    /// # Errors
    /// [`SchemaError::EmptyPrompt`], [`SchemaError::PromptTooLong`], [`SchemaError::TooLong`].
    pub fn check_limits(&self) -> Result<(), SchemaError> {
        check_prompt_text(&self.text)?;
        check_details(&self.source, &self.attributes)
    }
}

/// A trained head, ready to load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub name: String,
    /// The path of its safetensors file.
    pub path: String,
    /// The SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// The name of the picture vectors that the head takes, as in [`NamedVector::model`].
    pub encoder: String,
    /// `name@revision` of the sentence encoder whose vectors the head predicts.
    pub minilm: String,
    pub metrics: BTreeMap<String, f64>,
    /// The head's weight in the blend, 0 to 1.
    pub blend_weight: f64,
    /// The parameters of the calibration; empty if the head is not calibrated.
    pub calibration: Vec<f64>,
    pub created_at_ms: i64,
}

/// A prompt near a picture, with its share in the prediction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    pub prompt_id: Uuid,
    pub text: String,
    /// Cosine similarity, -1 to 1.
    pub similarity: f32,
    /// The prompt's share in `knn_vector`; the weights sum to 1.
    pub weight: f32,
}

/// The prediction for one picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub image_id: Uuid,
    #[serde(with = "apache_avro::serde_avro_bytes_opt")]
    pub source_key: Option<Vec<u8>>,
    pub source_topic: String,
    pub source_partition: i32,
    pub source_offset: i64,
    /// The blend of the parts below, 384 components.
    pub vector: Vec<f32>,
    pub knn_vector: Option<Vec<f32>>,
    pub head_vector: Option<Vec<f32>>,
    /// Best first.
    pub neighbours: Vec<Neighbour>,
    /// Absent without a calibrated head.
    pub expected_cosine: Option<f32>,
    /// The name of the picture's vector, as in [`NamedVector::model`].
    pub encoder: String,
    pub head: Option<String>,
    pub index: String,
    pub blend: String,
    pub created_at_ms: i64,
}
