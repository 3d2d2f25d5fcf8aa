//! Every schema that a record was ever written with, by fingerprint, so that old values stay
//! readable.
//!
//! A changed schema gets a new file under `avro/history/<Record>/` and a line here. No line is ever
//! removed.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use apache_avro::GenericSingleObjectReader;
use apache_avro::headers::HeaderBuilder;
use apache_avro::rabin::Rabin;
use apache_avro::schema::Schema;

use crate::{avro_reader, foreign};

/// A schema that records were written with at some time.
#[derive(Copy, Clone, Debug)]
pub struct HistoricSchema {
    /// The record's name, for example `Prompt`.
    pub record: &'static str,
    /// The file's name: the [`Fingerprint`] in hexadecimal.
    pub fingerprint: &'static str,
    pub json: &'static str,
}

macro_rules! historic {
    ($($record:literal $fingerprint:literal),* $(,)?) => {
        &[$(HistoricSchema {
            record: $record,
            fingerprint: $fingerprint,
            json: include_str!(concat!("../avro/history/", $record, "/", $fingerprint, ".avsc")),
        }),*]
    };
}

/// All schemas; for each record, oldest first.
pub const ALL: &[HistoricSchema] = historic![
    "Prompt" "0fa29b72f48e04c2",
    "ImageEmbedding" "1f132e2397593631",
    "PromptEmbedding" "74133d1b4e8475e9",
    "Head" "0c52b6980d9084c2",
    "Prediction" "8c3f8257b90c499d",
];

/// A schema's fingerprint in the byte order of the wire, where it follows C3 01.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl Fingerprint {
    /// Returns the CRC-64-AVRO of the schema's parsing canonical form, both as the Avro
    /// specification defines them.
    ///
    /// # Panics
    /// Panics for schemas without a canonical form in apache-avro, such as one with custom
    /// attributes. Those of `avro/` have one; never pass a foreign schema.
    pub fn of(schema: &Schema) -> Self {
        let canonical = Schema::parse_str(&canonical_form(schema)).expect("a canonical form is a schema");
        let digest = canonical.fingerprint::<Rabin>();
        Self(digest.bytes.try_into().expect("Rabin's output is 8 bytes"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Returns the parsing canonical form.
///
/// apache-avro 0.21 leaves `{"type":"string"}` where it removed a logical type, but the
/// specification says `"string"`. Other readers would not find the fingerprint of the former.
fn canonical_form(schema: &Schema) -> String {
    let primitives = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
    // Names cannot contain a brace, and the form has no other texts, so the replacement affects
    // types only.
    let unwrap =
        |form: String, name| form.replace(&format!(r#"{{"type":"{name}"}}"#), &format!(r#""{name}""#));
    primitives.into_iter().fold(schema.canonical_form(), unwrap)
}

/// A schema, prepared to read values that were written with it.
pub(crate) struct WriterSchema {
    pub(crate) schema: Schema,
    pub(crate) inlined: Schema,
    pub(crate) reader: GenericSingleObjectReader,
}

impl WriterSchema {
    /// Parses a schema of `avro/`.
    ///
    /// # Errors
    /// Why the text is no Avro schema that can be read here.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        Self::new(Schema::parse_str(json).map_err(|error| error.to_string())?)
    }

    /// Parses a schema from a registry, which anybody may have registered.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(crate) fn parse_foreign(json: &str) -> Result<Self, String> {
        let schema = foreign::parse(json)?;
        foreign::guarded(|| Self::new(schema))
    }

    fn new(schema: Schema) -> Result<Self, String> {
        let inlined = avro_reader::inline(&schema)?;
        // The codec reads the header before it chooses a schema, so this reader expects none.
        let reader = GenericSingleObjectReader::new_with_header_builder(schema.clone(), NoHeader)
            .map_err(|error| error.to_string())?;
        Ok(Self { schema, inlined, reader })
    }

    /// Returns the record's name without its namespace.
    pub(crate) fn name(&self) -> String {
        self.schema.name().map(|name| name.name.clone()).unwrap_or_else(|| "value without a name".to_owned())
    }
}

impl fmt::Debug for WriterSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterSchema({})", self.name())
    }
}

struct NoHeader;

impl HeaderBuilder for NoHeader {
    fn build_header(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Returns the schema with this fingerprint, of any record.
pub(crate) fn find(fingerprint: Fingerprint) -> Option<&'static WriterSchema> {
    static PARSED: LazyLock<HashMap<Fingerprint, WriterSchema>> = LazyLock::new(|| {
        let parse = |historic: &HistoricSchema| {
            let schema =
                WriterSchema::parse(historic.json).expect("a test reads every schema of the history");
            (Fingerprint::of(&schema.schema), schema)
        };
        ALL.iter().map(parse).collect()
    });
    PARSED.get(&fingerprint)
}
