//! The trait of every record on the wire: a name, a topic and an Avro schema. Knows no record.

use std::fmt::Debug;

use apache_avro::schema::Schema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::SchemaError;
use crate::datum::Datum;
use crate::history::WriterSchema;
use crate::topics::Topic;

/// A type with an Avro schema.
pub trait Record: Serialize + DeserializeOwned + Debug + Datum + sealed::Formed {
    /// The schema's name without its namespace.
    const NAME: &'static str;
    /// The topic that carries these records as values.
    const TOPIC: Topic;
    /// The text of the current schema in `avro/`.
    const SCHEMA_JSON: &'static str;

    /// Returns the current schema.
    fn schema() -> &'static Schema {
        &Self::form().schema
    }
}

pub(crate) mod sealed {
    use crate::history::{Fingerprint, WriterSchema};

    /// The current schema, parsed once.
    pub trait Formed {
        #[allow(private_interfaces, reason = "sealed: only this crate implements and calls it")]
        fn form() -> &'static WriterSchema;
        fn fingerprint() -> Fingerprint;
    }
}

/// Checks that the schema of a value is one of the record `R`.
pub(crate) fn check_name<R: Record>(writer: &WriterSchema) -> Result<(), SchemaError> {
    let found = writer.name();
    if found == R::NAME { Ok(()) } else { Err(SchemaError::WrongRecord { expected: R::NAME, found }) }
}
