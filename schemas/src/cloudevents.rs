//! Headers that describe a picture, in CloudEvents' binary mode for Kafka.
//!
//! Reference: CloudEvents 1.0.2, "Kafka protocol binding", section 3.2; W3C Trace Context for
//! `traceparent`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use crate::SchemaError;
use crate::dead_letter;
pub use crate::headers::Headers;
use crate::identity;

/// The names and fixed values of headers.
pub mod names {
    /// The prefix of every CloudEvents attribute.
    pub const CE_PREFIX: &str = "ce_";
    pub const SPECVERSION: &str = "ce_specversion";
    pub const ID: &str = "ce_id";
    pub const TYPE: &str = "ce_type";
    pub const SOURCE: &str = "ce_source";
    /// RFC 3339.
    pub const TIME: &str = "ce_time";
    /// Extension: the prompt_id that the picture was generated from.
    pub const PROMPT_ID: &str = "ce_promptid";
    /// Extension: the seed that the picture was generated from.
    pub const SEED: &str = "ce_seed";
    pub const CONTENT_TYPE: &str = "content-type";
    pub const CORRELATION_ID: &str = "correlation-id";
    pub const TRACEPARENT: &str = "traceparent";
    pub const TRACESTATE: &str = "tracestate";
    /// The time of the first record of a chain, such as the picture of a prediction: milliseconds
    /// since the Unix epoch, in decimal digits. Every service writes it into what it writes.
    pub const SOURCE_TIME: &str = "unprompt-source-time";
    /// The partition of prompts.v1 that a prompt, or its deletion, was published in.
    pub const SOURCE_PARTITION: &str = "unprompt-source-partition";
    /// The consumer group of the service that wrote the record.
    pub const WRITER: &str = "unprompt-writer";

    /// The supported version of CloudEvents.
    pub const SPECVERSION_1_0: &str = "1.0";
    /// The `ce_type` of a picture from the generator. Generators before this contract wrote
    /// `unprompt.image.generated`; readers accept any type.
    pub const TYPE_IMAGE_GENERATED: &str = "unprompt.image.generated.v1";
    /// The type of an image that `unprompt publish` or `unprompt predict` sends.
    pub const TYPE_IMAGE_PUBLISHED: &str = "unprompt.image.published.v1";
    /// The `content-type` of a value that is the picture's URI instead of the picture (claim
    /// check).
    pub const URI_LIST: &str = "text/uri-list";
}

/// The description of a picture in its headers. All of it may be absent: a picture needs no
/// headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageEvent {
    /// `ce_id`: the picture's identity if given.
    pub id: Option<String>,
    pub source: Option<String>,
    pub event_type: Option<String>,
    /// `ce_time`, milliseconds since the Unix epoch.
    pub time_ms: Option<i64>,
    pub content_type: Option<String>,
    pub prompt_id: Option<Uuid>,
    pub seed: Option<i64>,
    pub correlation_id: Option<String>,
    /// All other attributes, by their names without `ce_`.
    pub extensions: BTreeMap<String, String>,
}

impl ImageEvent {
    /// Reads the attributes and ignores all other headers.
    ///
    /// # Errors
    /// For an attribute that is malformed or repeated, and for a `ce_specversion` other than 1.0.
    pub fn parse(headers: &Headers) -> Result<Self, SchemaError> {
        let mut attributes = ce_attributes(headers)?;
        check_specversion(&mut attributes)?;
        let mut take = |name: &str| attributes.remove(name);
        Ok(Self {
            id: take(names::ID).map(|text| filled(names::ID, text)).transpose()?,
            source: take(names::SOURCE).map(|text| filled(names::SOURCE, text)).transpose()?,
            event_type: take(names::TYPE).map(|text| filled(names::TYPE, text)).transpose()?,
            time_ms: take(names::TIME).map(parse_time).transpose()?,
            prompt_id: take(names::PROMPT_ID).map(parse_prompt_id).transpose()?,
            seed: take(names::SEED).map(parse_seed).transpose()?,
            content_type: first_text(headers, names::CONTENT_TYPE)?,
            correlation_id: first_text(headers, names::CORRELATION_ID)?,
            extensions: attributes
                .into_iter()
                .map(|(name, text)| (name[names::CE_PREFIX.len()..].to_owned(), text))
                .collect(),
        })
    }

    /// Returns the headers of this event. A time outside the years -9999 to 9999 is left out.
    pub fn to_headers(&self) -> Headers {
        let time =
            self.time_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(|time| time.to_string());
        let attributes = [
            (names::ID, self.id.clone()),
            (names::SOURCE, self.source.clone()),
            (names::TYPE, self.event_type.clone()),
            (names::TIME, time),
            (names::PROMPT_ID, self.prompt_id.map(|id| id.to_string())),
            (names::SEED, self.seed.map(|seed| seed.to_string())),
        ];
        let mut headers: Headers =
            attributes.into_iter().filter_map(|(name, text)| Some(header(name, text?))).collect();
        headers.extend(
            self.extensions
                .iter()
                .map(|(name, text)| header(&format!("{}{name}", names::CE_PREFIX), text.clone())),
        );
        if !headers.is_empty() {
            headers.insert(0, header(names::SPECVERSION, names::SPECVERSION_1_0.to_owned()));
        }
        let plain =
            [(names::CONTENT_TYPE, &self.content_type), (names::CORRELATION_ID, &self.correlation_id)];
        headers.extend(plain.into_iter().filter_map(|(name, text)| Some(header(name, text.clone()?))));
        headers
    }

    /// Returns the picture's identity: from `ce_id` if given, otherwise from its place. `topic` is
    /// the full name.
    pub fn image_id(&self, topic: &str, partition: i32, offset: i64) -> Uuid {
        match &self.id {
            Some(id) => identity::image_id_of(id),
            None => identity::image_id_at(topic, partition, offset),
        }
    }
}

/// Returns the headers that a prediction copies from its picture.
///
/// These are all but those that describe the picture itself (`ce_*`, `content-type`), those of a
/// dead letter, and a malformed trace context; at most [`FORWARDED_MAX`].
pub fn forwarded(headers: &Headers) -> Headers {
    let trace = trace_context(headers);
    let is_copied = |name: &str| match name {
        names::TRACEPARENT | names::TRACESTATE => trace.is_some(),
        _ => !name.starts_with(names::CE_PREFIX) && !is_content_type(name) && !dead_letter::is_name(name),
    };
    headers.iter().filter(|(name, _)| is_copied(name)).take(FORWARDED_MAX).cloned().collect()
}

/// The most headers that an output copies from its record, and that a dead letter has from it.
pub const FORWARDED_MAX: usize = 100;

/// Returns the `traceparent` of the headers if there is exactly one and it is well-formed.
pub fn trace_context(headers: &Headers) -> Option<&str> {
    let mut parents = headers.iter().filter(|(name, _)| name == names::TRACEPARENT);
    let (_, value) = parents.next()?;
    let text = str::from_utf8(value).ok()?;
    (parents.next().is_none() && is_traceparent(text)).then_some(text)
}

/// Returns whether the text is `version-traceid-parentid-flags` of W3C Trace Context. Only version
/// 00 must end after the flags.
pub fn is_traceparent(text: &str) -> bool {
    // A header may be as long as a record and consist of hyphens, so its parts are not collected.
    let mut parts = text.splitn(5, '-');
    let mut next = || parts.next();
    let (Some(version), Some(trace_id), Some(parent_id), Some(flags), rest) =
        (next(), next(), next(), next(), next())
    else {
        return false;
    };
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &str, length| is_hex(part, length) && part.bytes().any(|b| b != b'0');
    let is_version = is_hex(version, 2) && version != "ff" && (version != "00" || rest.is_none());
    is_version && is_id(trace_id, 32) && is_id(parent_id, 16) && is_hex(flags, 2)
}

fn header(name: &str, text: String) -> (String, Vec<u8>) {
    (name.to_owned(), text.into_bytes())
}

fn is_content_type(name: &str) -> bool {
    name.eq_ignore_ascii_case(names::CONTENT_TYPE)
}

fn ce_attributes(headers: &Headers) -> Result<BTreeMap<String, String>, SchemaError> {
    let mut attributes = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| name.starts_with(names::CE_PREFIX)) {
        if attributes.insert(name.clone(), utf8(name, value)?).is_some() {
            let count = headers.iter().filter(|(other, _)| other == name).count();
            return Err(SchemaError::RepeatedHeader { name: name.clone(), count });
        }
    }
    Ok(attributes)
}

fn check_specversion(attributes: &mut BTreeMap<String, String>) -> Result<(), SchemaError> {
    match attributes.remove(names::SPECVERSION) {
        Some(version) if version == names::SPECVERSION_1_0 => Ok(()),
        Some(version) => {
            Err(bad(names::SPECVERSION, version, "1.0, the only version of CloudEvents read here"))
        }
        // `kcat -H ce_id=mine picture.png` is accepted: only 1.0 can be meant.
        None => Ok(()),
    }
}

fn first_text(headers: &Headers, wanted: &str) -> Result<Option<String>, SchemaError> {
    let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found.map(|(name, value)| utf8(name, value)).transpose()
}

fn utf8(name: &str, value: &[u8]) -> Result<String, SchemaError> {
    let text = str::from_utf8(value)
        .map_err(|_| bad(name, String::from_utf8_lossy(value).into_owned(), "UTF-8 text"))?;
    Ok(text.to_owned())
}

fn filled(name: &str, text: String) -> Result<String, SchemaError> {
    if text.trim().is_empty() { Err(bad(name, text, "a text with at least one character")) } else { Ok(text) }
}

fn parse_time(text: String) -> Result<i64, SchemaError> {
    let time: Result<Timestamp, _> = text.parse();
    time.map(|time| time.as_millisecond())
        .map_err(|_| bad(names::TIME, text, "an RFC 3339 time such as 2026-11-23T22:50:00Z"))
}

fn parse_prompt_id(text: String) -> Result<Uuid, SchemaError> {
    Uuid::try_parse(&text).map_err(|_| bad(names::PROMPT_ID, text, "a UUID"))
}

fn parse_seed(text: String) -> Result<i64, SchemaError> {
    text.parse().map_err(|_| bad(names::SEED, text, "a whole number of 64 bits"))
}

fn bad(name: &str, value: String, expected: &'static str) -> SchemaError {
    SchemaError::Header { name: name.to_owned(), value, expected }
}
