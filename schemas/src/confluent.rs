//! A cache of a registry's answers: ids are kept permanently, schemas up to a limit, and unknown
//! ids temporarily.
//!
//! A record names its schema by four bytes that anyone may write, so requests to the registry are
//! limited in number and rate.

use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apache_avro::schema_compatibility::SchemaCompatibility;

use crate::SchemaError;
use crate::history::WriterSchema;
use crate::record::{Record, check_name};
use crate::registry::{self, Registry, RegistryError};
use crate::{avro_reader, foreign};

/// The most schemas kept; a topic has a handful.
const SCHEMAS_MAX: usize = 1_000;
/// The most unknown ids kept.
const UNKNOWN_MAX: usize = 10_000;
/// The time after which an unknown id is requested again, because it may have been registered
/// since.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// The interval between requests for unknown ids once [`UNKNOWN_BURST`] is used up.
const UNKNOWN_PACE: Duration = Duration::from_millis(50);
const UNKNOWN_BURST: Duration = Duration::from_secs(1);

/// A registry and its answers so far.
#[derive(Debug)]
pub(crate) struct Confluent {
    registry: Arc<dyn Registry>,
    /// Ids by subject.
    ids: RwLock<HashMap<String, u32>>,
    /// Schemas by id and by the name of the record to read.
    schemas: RwLock<Bounded<(u32, &'static str), SchemaMatch>>,
    unknown: Mutex<Unknown>,
}

/// The relation of an id's schema to a record.
#[derive(Clone, Debug)]
enum SchemaMatch {
    /// Its values have the layout of the current schema.
    Current,
    Older(Arc<WriterSchema>),
    OtherRecord(String),
    Incompatible(String),
}

impl Confluent {
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        let schemas = RwLock::new(Bounded::new(SCHEMAS_MAX));
        let unknown = Unknown { ids: Bounded::new(UNKNOWN_MAX), paid_until: None };
        Self { registry, ids: RwLock::default(), schemas, unknown: Mutex::new(unknown) }
    }

    /// Returns the id of the record's current schema on this topic.
    pub fn id_of<R: Record>(&self, topic_name: &str) -> Result<u32, SchemaError> {
        let subject = registry::subject(topic_name);
        let known = self.ids.read().get(&subject).copied();
        if let Some(id) = known {
            return Ok(id);
        }
        let id = self.registry.id_of(&subject, R::SCHEMA_JSON)?;
        self.ids.write().insert(subject, id);
        Ok(id)
    }

    /// Returns the schema with this id if it can be read as the record; none if its layout is that
    /// of the record's current schema.
    pub fn older_schema_of<R: Record>(&self, id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaError> {
        let key = (id, R::NAME);
        let known = self.schemas.read().get(&key).cloned();
        if let Some(found) = known {
            return found.read_as::<R>(id);
        }
        let found = self.ask::<R>(id)?;
        self.schemas.write().insert(key, found.clone());
        found.read_as::<R>(id)
    }

    fn ask<R: Record>(&self, id: u32) -> Result<SchemaMatch, RegistryError> {
        let now = Instant::now();
        let delay = self.with_unknown(|unknown| unknown.delay(id, now))?;
        std::thread::sleep(delay);
        match self.registry.schema_of(id) {
            Ok(json) => Ok(SchemaMatch::of::<R>(&json)),
            Err(RegistryError::Unusable { reason, .. }) => Ok(SchemaMatch::Incompatible(reason)),
            Err(error @ RegistryError::UnknownId { .. }) => {
                self.with_unknown(|unknown| unknown.note(id, Instant::now()));
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn with_unknown<T>(&self, f: impl FnOnce(&mut Unknown) -> T) -> T {
        f(&mut self.unknown.lock())
    }
}

impl SchemaMatch {
    fn of<R: Record>(json: &str) -> Self {
        let writer = match WriterSchema::parse_foreign(json) {
            Ok(writer) => writer,
            Err(reason) => return Self::Incompatible(reason),
        };
        if check_name::<R>(&writer).is_err() {
            return Self::OtherRecord(writer.name());
        }
        if avro_reader::is_same(&writer.inlined, &R::form().inlined) {
            return Self::Current;
        }
        let can_read = || SchemaCompatibility::can_read(&writer.schema, R::schema());
        match foreign::guarded(|| can_read().map_err(|error| error.to_string())) {
            Ok(()) => Self::Older(Arc::new(writer)),
            Err(reason) => Self::Incompatible(reason),
        }
    }

    fn read_as<R: Record>(self, id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaError> {
        match self {
            Self::Current => Ok(None),
            Self::Older(writer) => Ok(Some(writer)),
            Self::OtherRecord(found) => Err(SchemaError::WrongRecord { expected: R::NAME, found }),
            Self::Incompatible(reason) => {
                Err(SchemaError::IncompatibleSchema { record: R::NAME, id, reason })
            }
        }
    }
}

/// Ids that the registry does not know, and the rate limit of requests for them.
#[derive(Debug)]
struct Unknown {
    /// The time until which each id is treated as unknown.
    ids: Bounded<u32, Instant>,
    /// Advances by [`UNKNOWN_PACE`] with every unknown id. A request waits while this is more than
    /// [`UNKNOWN_BURST`] ahead of the clock.
    paid_until: Option<Instant>,
}

impl Unknown {
    /// Returns the delay before this id may be requested from the registry.
    fn delay(&self, id: u32, now: Instant) -> Result<Duration, RegistryError> {
        if self.ids.get(&id).is_some_and(|until| now < *until) {
            return Err(RegistryError::UnknownId { id });
        }
        let ahead = self.paid_until.map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now));
        Ok(ahead.saturating_sub(UNKNOWN_BURST))
    }

    fn note(&mut self, id: u32, now: Instant) {
        self.ids.insert(id, now + UNKNOWN_FOR);
        self.paid_until = Some(self.paid_until.map_or(now, |paid| paid.max(now)) + UNKNOWN_PACE);
    }
}

/// A map of at most `limit` entries. A new entry replaces the oldest.
#[derive(Debug)]
struct Bounded<K, V> {
    entries: HashMap<K, V>,
    oldest_first: VecDeque<K>,
    limit: usize,
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), oldest_first: VecDeque::new(), limit }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, value).is_some() {
            return;
        }
        self.oldest_first.push_back(key);
        if self.oldest_first.len() > self.limit
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none_yet() -> Unknown {
        Unknown { ids: Bounded::new(UNKNOWN_MAX), paid_until: None }
    }

    #[test]
    fn a_full_map_evicts_its_oldest_entry() {
        let mut bounded = Bounded::new(2);
        for key in [1, 2, 2, 3] {
            bounded.insert(key, key * 10);
        }
        assert_eq!([1, 2, 3].map(|key| bounded.get(&key).copied()), [None, Some(20), Some(30)]);
    }

    #[test]
    fn an_unknown_id_is_requested_again_after_a_delay() {
        let (mut unknown, now) = (none_yet(), Instant::now());
        unknown.note(7, now);
        assert_eq!(unknown.delay(7, now + UNKNOWN_FOR / 2), Err(RegistryError::UnknownId { id: 7 }));
        assert_eq!(unknown.delay(7, now + UNKNOWN_FOR), Ok(Duration::ZERO));
        assert_eq!(unknown.delay(8, now), Ok(Duration::ZERO));
    }

    #[test]
    fn requests_for_unknown_ids_are_rate_limited() {
        let (mut unknown, mut now) = (none_yet(), Instant::now());
        let started = now;
        for id in 0..120 {
            now += unknown.delay(id, now).unwrap();
            unknown.note(id, now);
        }
        let waited = now - started;
        assert_eq!(waited, UNKNOWN_PACE * 119 - UNKNOWN_BURST, "twenty at once, then twenty a second");
        let later = now + UNKNOWN_BURST * 2;
        assert_eq!(unknown.delay(999, later), Ok(Duration::ZERO), "a pause restores the burst");
    }
}
