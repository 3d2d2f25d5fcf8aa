//! What a codec remembers of its registry: ids for good, schemas up to a bound, and for a while which ids are unknown there.
//!
//! A record names its schema by four bytes that anybody may write, so what is asked is bounded in number and in pace.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use apache_avro::schema_compatibility::SchemaCompatibility;

use crate::SchemaError;
use crate::codec::check_name;
use crate::history::WriterSchema;
use crate::records::Record;
use crate::registry::{self, Registry, RegistryError};
use crate::{foreign, layout};

/// Schemas remembered, at most; a topic has a handful.
const SCHEMAS_MAX: usize = 1_000;
/// Unknown ids remembered, at most.
const UNKNOWN_MAX: usize = 10_000;
/// An id that the registry did not know may have come there since: it is asked again after this.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Once a second's worth of unknown ids was asked for at once, the next wait for one of these each.
const UNKNOWN_PACE: Duration = Duration::from_millis(50);
const UNKNOWN_BURST: Duration = Duration::from_secs(1);

/// A registry and what it has answered.
#[derive(Debug)]
pub(crate) struct Confluent {
    registry: Arc<dyn Registry>,
    /// By subject.
    ids: RwLock<HashMap<String, u32>>,
    /// By id and the record that is to be read.
    schemas: RwLock<Bounded<(u32, &'static str), Found>>,
    unknown: Mutex<Unknown>,
}

/// What the schema of an id is to a record.
#[derive(Clone, Debug)]
enum Found {
    /// Its values are laid out as the current schema's are.
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

    /// The id of the record's current schema on this topic.
    pub fn id_of<R: Record>(&self, topic_name: &str) -> Result<u32, SchemaError> {
        let subject = registry::subject(topic_name);
        let known = self.ids.read().unwrap_or_else(PoisonError::into_inner).get(&subject).copied();
        if let Some(id) = known {
            return Ok(id);
        }
        let id = self.registry.id_of(&subject, R::SCHEMA_JSON)?;
        self.ids.write().unwrap_or_else(PoisonError::into_inner).insert(subject, id);
        Ok(id)
    }

    /// The schema with this id, where it can be read as the record; none where it is laid out as the record's current one.
    pub fn older_schema_of<R: Record>(&self, id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaError> {
        let key = (id, R::NAME);
        let known = self.schemas.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(found) = known {
            return found.read_as::<R>(id);
        }
        let found = self.ask::<R>(id)?;
        self.schemas.write().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
        found.read_as::<R>(id)
    }

    fn ask<R: Record>(&self, id: u32) -> Result<Found, RegistryError> {
        let now = Instant::now();
        let delay = self.with_unknown(|unknown| unknown.delay(id, now))?;
        std::thread::sleep(delay);
        match self.registry.schema_of(id) {
            Ok(json) => Ok(Found::of::<R>(&json)),
            Err(RegistryError::Unusable { reason, .. }) => Ok(Found::Incompatible(reason)),
            Err(error @ RegistryError::UnknownId { .. }) => {
                self.with_unknown(|unknown| unknown.note(id, Instant::now()));
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn with_unknown<T>(&self, f: impl FnOnce(&mut Unknown) -> T) -> T {
        f(&mut self.unknown.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Found {
    fn of<R: Record>(json: &str) -> Self {
        let writer = match WriterSchema::parse_foreign(json) {
            Ok(writer) => writer,
            Err(reason) => return Self::Incompatible(reason),
        };
        if check_name::<R>(&writer).is_err() {
            return Self::OtherRecord(writer.name());
        }
        if layout::is_same(&writer.inlined, &R::form().inlined) {
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

/// Ids that the registry did not know, and how soon it may be asked for another.
#[derive(Debug)]
struct Unknown {
    /// Until when each is taken for unknown.
    ids: Bounded<u32, Instant>,
    /// Every unknown id takes this one pace further; ahead of the burst it is waited for.
    paid_until: Option<Instant>,
}

impl Unknown {
    /// How long to wait before the registry is asked for this id.
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

/// A map of so many entries at most; the oldest makes room.
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
    fn the_oldest_entry_makes_room() {
        let mut bounded = Bounded::new(2);
        for key in [1, 2, 2, 3] {
            bounded.insert(key, key * 10);
        }
        assert_eq!([1, 2, 3].map(|key| bounded.get(&key).copied()), [None, Some(20), Some(30)]);
    }

    #[test]
    fn an_unknown_id_is_asked_for_again_after_a_while() {
        let (mut unknown, now) = (none_yet(), Instant::now());
        unknown.note(7, now);
        assert_eq!(unknown.delay(7, now + UNKNOWN_FOR / 2), Err(RegistryError::UnknownId { id: 7 }));
        assert_eq!(unknown.delay(7, now + UNKNOWN_FOR), Ok(Duration::ZERO));
        assert_eq!(unknown.delay(8, now), Ok(Duration::ZERO));
    }

    #[test]
    fn a_flood_of_unknown_ids_is_asked_for_at_a_pace() {
        let (mut unknown, mut now) = (none_yet(), Instant::now());
        let started = now;
        for id in 0..120 {
            now += unknown.delay(id, now).unwrap();
            unknown.note(id, now);
        }
        let waited = now - started;
        assert_eq!(waited, UNKNOWN_PACE * 119 - UNKNOWN_BURST, "twenty at once, then twenty a second");
        let later = now + UNKNOWN_BURST * 2;
        assert_eq!(unknown.delay(999, later), Ok(Duration::ZERO), "a pause is paid back");
    }
}
