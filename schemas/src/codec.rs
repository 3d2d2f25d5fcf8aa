//! Encodes and decodes records: Avro's single-object encoding, and Confluent framing if a registry
//! is configured.
//!
//! With a registry, a reader takes both. Single object: C3 01, the schema's CRC-64-AVRO fingerprint
//! (8 bytes, little endian), the datum. Confluent: 00, the schema's id in the registry (4 bytes,
//! big endian), the datum. References: Avro specification 1.12, "Single-object encoding";
//! Confluent, "Wire format".

use std::sync::Arc;

use crate::SchemaError;
use crate::avro_reader::{self, DecodeFault, DecodeFaultKind, Input};
use crate::confluent::Confluent;
use crate::foreign;
use crate::history::{self, Fingerprint, WriterSchema};
use crate::record::{Record, check_name};
use crate::registry::Registry;

/// The first bytes of Avro's single-object encoding.
pub const SINGLE_OBJECT_MARKER: [u8; 2] = [0xC3, 0x01];
/// The first byte of Confluent framing.
pub const CONFLUENT_MAGIC: u8 = 0;

const SINGLE_OBJECT_HEADER_BYTES: usize = 10;
const CONFLUENT_HEADER_BYTES: usize = 5;
/// The part of a topic's limit that is reserved for the key, the headers and the broker's frame.
const FRAME_ROOM_BYTES: usize = 64 * 1024;

/// Encodes a record in Avro's single-object encoding with its current schema.
///
/// # Errors
/// [`SchemaError::TooLarge`] for a record that its topic would refuse.
pub fn encode<R: Record>(record: &R) -> Result<Vec<u8>, SchemaError> {
    let mut bytes = Vec::from(SINGLE_OBJECT_MARKER);
    bytes.extend_from_slice(&R::fingerprint().0);
    append_datum(record, bytes)
}

/// Decodes Avro's single-object encoding, written with any schema of the record's history.
///
/// # Errors
/// [`SchemaError::RegistryNeeded`] for Confluent framing; the other variants say what is wrong with
/// the bytes.
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, SchemaError> {
    Codec::single_object().decode(bytes)
}

/// The encoding that a service writes, and its source of schemas for the records it reads.
#[derive(Clone, Debug, Default)]
pub struct Codec {
    confluent: Option<Arc<Confluent>>,
}

impl Codec {
    /// Writes and reads Avro's single-object encoding. Confluent framing is an error.
    pub fn single_object() -> Self {
        Self::default()
    }

    /// Writes Confluent framing, under the subject `<topic>-value`, and reads both encodings.
    pub fn confluent(registry: Arc<dyn Registry>) -> Self {
        Self { confluent: Some(Arc::new(Confluent::new(registry))) }
    }

    /// Fetches from the registry, if there is one, what [`Self::encode`] needs, so that no record
    /// waits for it later.
    ///
    /// # Errors
    /// [`SchemaError::Registry`].
    pub fn prepare<R: Record>(&self, topic_name: &str) -> Result<(), SchemaError> {
        self.confluent.iter().try_for_each(|confluent| confluent.id_of::<R>(topic_name).map(drop))
    }

    /// Encodes a record for this topic (full name).
    ///
    /// # Errors
    /// [`SchemaError::TooLarge`], or [`SchemaError::Registry`] if the registry gives no id.
    pub fn encode<R: Record>(&self, topic_name: &str, record: &R) -> Result<Vec<u8>, SchemaError> {
        let Some(confluent) = &self.confluent else { return encode(record) };
        let id = confluent.id_of::<R>(topic_name)?;
        let mut bytes = vec![CONFLUENT_MAGIC];
        bytes.extend_from_slice(&id.to_be_bytes());
        append_datum(record, bytes)
    }

    /// Decodes either framing.
    ///
    /// # Errors
    /// As [`decode`]; with a registry also [`SchemaError::Registry`] and
    /// [`SchemaError::IncompatibleSchema`].
    pub fn decode<R: Record>(&self, bytes: &[u8]) -> Result<R, SchemaError> {
        match bytes {
            [CONFLUENT_MAGIC, ..] => self.decode_confluent(bytes),
            _ if bytes.starts_with(&SINGLE_OBJECT_MARKER) => decode_single_object(bytes),
            _ => Err(SchemaError::NotAvro { record: R::NAME, start: start_of(bytes) }),
        }
    }

    /// Decodes like [`Self::decode`], for readers other than the record's consumer; none if the
    /// record itself is at fault.
    ///
    /// # Errors
    /// Those of the configuration and of the registry. [`SchemaError::RegistryNeeded`] is one of
    /// them: with a registry the record may be readable, and a job must report that rather than
    /// silently read fewer records.
    pub fn decode_readable<R: Record>(&self, bytes: &[u8]) -> Result<Option<R>, SchemaError> {
        match self.decode(bytes) {
            Err(error @ SchemaError::RegistryNeeded { .. }) => Err(error),
            Err(error) if error.is_fatal() || error.is_transient() => Err(error),
            decoded => Ok(decoded.ok()),
        }
    }

    fn decode_confluent<R: Record>(&self, bytes: &[u8]) -> Result<R, SchemaError> {
        let Some((header, datum)) = bytes.split_first_chunk::<CONFLUENT_HEADER_BYTES>() else {
            return Err(cut_header::<R>(bytes));
        };
        let [_, id @ ..] = *header;
        let id = u32::from_be_bytes(id);
        let Some(confluent) = &self.confluent else { return Err(SchemaError::RegistryNeeded { id }) };
        let older = confluent.older_schema_of::<R>(id)?;
        read_datum(older.as_deref(), datum, CONFLUENT_HEADER_BYTES)
    }
}

/// Returns whether the bytes claim to be Avro, in either framing. No UTF-8 text starts like a
/// single object, and no sensible text starts like Confluent framing.
pub fn is_framed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&CONFLUENT_MAGIC) || bytes.starts_with(&SINGLE_OBJECT_MARKER)
}

fn decode_single_object<R: Record>(bytes: &[u8]) -> Result<R, SchemaError> {
    let Some((header, datum)) = bytes.split_first_chunk::<SINGLE_OBJECT_HEADER_BYTES>() else {
        return Err(cut_header::<R>(bytes));
    };
    let [_, _, fingerprint @ ..] = *header;
    let fingerprint = Fingerprint(fingerprint);
    if fingerprint == R::fingerprint() {
        return read_datum(None, datum, SINGLE_OBJECT_HEADER_BYTES);
    }
    let unknown = SchemaError::UnknownFingerprint { record: R::NAME, fingerprint };
    let older = history::find(fingerprint).ok_or(unknown)?;
    check_name::<R>(older)?;
    read_datum(Some(older), datum, SINGLE_OBJECT_HEADER_BYTES)
}

/// Appends the record to its header.
fn append_datum<R: Record>(record: &R, mut bytes: Vec<u8>) -> Result<Vec<u8>, SchemaError> {
    let header_bytes = bytes.len();
    record.write(&mut bytes);
    // Below this size, no field can have more items than a reader accepts.
    if bytes.len() as u64 > avro_reader::ITEMS_MAX {
        avro_reader::walk(&R::form().inlined, &bytes[header_bytes..])
            .map_err(|fault| faulty::<R>(fault, bytes.len()))?;
    }
    let limit = R::TOPIC.spec().max_message_bytes as usize - FRAME_ROOM_BYTES;
    match bytes.len() {
        length if length > limit => Err(SchemaError::TooLarge { record: R::NAME, length, limit }),
        _ => Ok(bytes),
    }
}

/// Reads a datum of the current schema, or of an `older` one.
fn read_datum<R: Record>(
    older: Option<&WriterSchema>,
    datum: &[u8],
    header_bytes: usize,
) -> Result<R, SchemaError> {
    let faulty = |fault| faulty::<R>(fault, datum.len() + header_bytes);
    if let Some(writer) = older {
        let trailing = avro_reader::walk(&writer.inlined, datum).map_err(faulty)?;
        check_end::<R>(trailing)?;
        return read_older(writer, datum);
    }
    let mut input = Input::new(datum);
    let record = R::read(&mut input).map_err(faulty)?;
    check_end::<R>(input.remaining())?;
    Ok(record)
}

/// Reads a datum of a schema other than the current one, by Avro's rules of schema resolution.
fn read_older<R: Record>(writer: &WriterSchema, mut datum: &[u8]) -> Result<R, SchemaError> {
    let record = foreign::guarded(|| {
        let value = writer.reader.read_value(&mut datum).and_then(|value| value.resolve(R::schema()));
        value.and_then(|value| apache_avro::from_value(&value)).map_err(|error| error.to_string())
    });
    record.map_err(|reason| SchemaError::Malformed {
        record: R::NAME,
        field: "a field of an older schema".to_owned(),
        reason,
    })
}

fn check_end<R: Record>(trailing: usize) -> Result<(), SchemaError> {
    if trailing == 0 { Ok(()) } else { Err(SchemaError::TrailingBytes { record: R::NAME, count: trailing }) }
}

fn faulty<R: Record>(fault: DecodeFault, length: usize) -> SchemaError {
    let DecodeFault { field, kind } = fault;
    match kind {
        DecodeFaultKind::CutOff => SchemaError::Truncated { record: R::NAME, field, length },
        DecodeFaultKind::Invalid(reason) => {
            SchemaError::Malformed { record: R::NAME, field, reason: reason.to_owned() }
        }
    }
}

fn cut_header<R: Record>(bytes: &[u8]) -> SchemaError {
    SchemaError::Truncated { record: R::NAME, field: "the header".to_owned(), length: bytes.len() }
}

fn start_of(bytes: &[u8]) -> String {
    let start: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02X}")).collect();
    if start.is_empty() { "nothing: it is empty".to_owned() } else { start.join(" ") }
}
