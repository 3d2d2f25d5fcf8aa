//! Conditions on prompts, and their translation for Qdrant.

use std::collections::BTreeMap;

use qdrant_client::qdrant::{self, Condition, Range};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::{at_most, refuse};
use crate::{IndexError, payload};

/// The maximum number of sources and attributes in a filter, together.
const MAX_VALUES: usize = 1_000;
/// The maximum length of each text in a filter, in characters.
const MAX_CHARS: usize = 1_000;

/// Selects the prompts to consider: all conditions must hold, and the default selects all prompts.
///
/// In JSON, times are milliseconds since 1970 or RFC 3339, and an attribute's value may be one
/// string instead of a list.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Seen in any of these sources; any source if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Seen in none of these sources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_sources: Vec<String>,
    /// First seen at this time or later, in milliseconds since 1970.
    #[serde(rename = "created_from", deserialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub created_from_ms: Option<i64>,
    /// First seen before this time, in milliseconds since 1970.
    #[serde(rename = "created_before", deserialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub created_before_ms: Option<i64>,
    /// At least this many characters. Prompts indexed before lengths were stored match no bound on
    /// the length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u64>,
    /// At most this many characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// Has each of these attributes with any of its values.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Vec<String>>,
    /// Contains all of these words, in any order and case. A word is a run of letters and digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// Contains these words consecutively, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phrase: Option<String>,
    /// Contains exactly this text, parts of words included. Reads the texts that pass the other
    /// conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}

impl Filter {
    /// Selects prompts seen in `source`.
    pub fn source(source: impl Into<String>) -> Self {
        Self { sources: vec![source.into()], ..Self::default() }
    }

    pub(crate) fn to_qdrant(&self) -> Result<Option<qdrant::Filter>, IndexError> {
        self.without(&[])
    }

    pub(super) fn without(&self, excluded: &[Uuid]) -> Result<Option<qdrant::Filter>, IndexError> {
        self.check()?;
        let must = self.conditions()?;
        let ids: Vec<_> = excluded.iter().copied().map(payload::point_id).collect();
        let mut must_not = if ids.is_empty() { Vec::new() } else { vec![Condition::has_id(ids)] };
        if !self.not_sources.is_empty() {
            must_not.push(Condition::matches(payload::SOURCES, self.not_sources.clone()));
        }
        let filter = qdrant::Filter { must, must_not, ..Default::default() };
        Ok((!filter.must.is_empty() || !filter.must_not.is_empty()).then_some(filter))
    }

    /// Refuses filters that exceed a bound or that no prompt can pass.
    pub(super) fn check(&self) -> Result<(), IndexError> {
        let values = self.attributes.values().map(Vec::len).sum::<usize>();
        at_most(values + self.sources.len() + self.not_sources.len(), MAX_VALUES, "number of filter values")?;
        for text in self.texts() {
            at_most(text.chars().count(), MAX_CHARS, "longest filter text in characters")?;
        }
        if let Some((key, _)) = self.attributes.iter().find(|(_, values)| values.is_empty()) {
            return refuse(format!("its filter gives no value for the attribute {key:?}"));
        }
        for (name, text) in [("words", &self.words), ("phrase", &self.phrase)] {
            if text.as_ref().is_some_and(|text| !text.contains(char::is_alphanumeric)) {
                return refuse(format!("its filter's {name:?} contains no letter or digit"));
            }
        }
        if self.contains.as_ref().is_some_and(String::is_empty) {
            return refuse("its filter's text to contain is empty");
        }
        self.check_ranges()
    }

    fn check_ranges(&self) -> Result<(), IndexError> {
        match (self.created_from_ms, self.created_before_ms) {
            (Some(from), Some(before)) if from >= before => {
                return refuse("its filter's times need created_from before created_before");
            }
            _ => {}
        }
        match (self.min_length, self.max_length) {
            (Some(min), Some(max)) if min > max => {
                refuse(format!("its filter's min_length {min} is above its max_length {max}"))
            }
            _ => Ok(()),
        }
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        let words = [&self.words, &self.phrase, &self.contains].into_iter().flatten();
        let attributes = self.attributes.iter().flat_map(|(key, values)| std::iter::once(key).chain(values));
        self.sources.iter().chain(&self.not_sources).chain(attributes).chain(words)
    }

    fn conditions(&self) -> Result<Vec<Condition>, IndexError> {
        let mut must = Vec::new();
        if !self.sources.is_empty() {
            must.push(Condition::matches(payload::SOURCES, self.sources.clone()));
        }
        if self.created_from_ms.is_some() || self.created_before_ms.is_some() {
            must.push(Condition::range(payload::CREATED_AT, self.created()));
        }
        if self.min_length.is_some() || self.max_length.is_some() {
            must.push(Condition::range(payload::LENGTH, self.length()));
        }
        for (key, values) in &self.attributes {
            must.push(Condition::matches(payload::attribute_path(key)?, values.clone()));
        }
        self.match_text(&mut must);
        Ok(must)
    }

    /// Adds the conditions on the text. Qdrant's `text` means all words, since the field has an
    /// index of words; its `substring` means the literal text.
    fn match_text(&self, must: &mut Vec<Condition>) {
        if let Some(words) = &self.words {
            must.push(Condition::matches_text(payload::TEXT, words));
        }
        if let Some(phrase) = &self.phrase {
            must.push(Condition::matches_phrase(payload::TEXT, phrase));
        }
        if let Some(text) = &self.contains {
            // The index knows only words; requiring the whole words leaves fewer texts to read.
            if let Some(words) = whole_words(text) {
                must.push(Condition::matches_text(payload::TEXT, words));
            }
            must.push(Condition::matches_substring(payload::TEXT, text));
        }
    }

    /// The range of times. Milliseconds stay exact in an f64 until the year 287396.
    fn created(&self) -> Range {
        Range {
            gte: self.created_from_ms.map(|ms| ms as f64),
            lt: self.created_before_ms.map(|ms| ms as f64),
            ..Default::default()
        }
    }

    fn length(&self) -> Range {
        Range {
            gte: self.min_length.map(|chars| chars as f64),
            lte: self.max_length.map(|chars| chars as f64),
            ..Default::default()
        }
    }
}

/// The words of `part` that are whole words of every text that contains it, whatever precedes and
/// follows it.
fn whole_words(part: &str) -> Option<String> {
    let mut words: Vec<&str> = part.split(|c: char| !c.is_alphanumeric()).collect();
    words.pop();
    let inner: Vec<&str> = words.into_iter().skip(1).filter(|word| !word.is_empty()).collect();
    (!inner.is_empty()).then(|| inner.join(" "))
}

/// Parses a time into milliseconds since 1970, from RFC 3339 (`2026-11-23T22:50:00Z`) or from a
/// day, which begins at midnight UTC.
///
/// # Errors
/// [`IndexError::InvalidQuery`] for anything else.
pub fn time_ms(text: &str) -> Result<i64, IndexError> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let midnight = text.parse::<jiff::civil::Date>().and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC));
    match midnight {
        Ok(midnight) => Ok(midnight.timestamp().as_millisecond()),
        Err(_) => refuse(format!(
            "{text:?} is not a time; give one such as 2026-11-23T22:50:00Z, a day such as 2026-11-23, \
             or milliseconds"
        )),
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a time is RFC 3339 text or milliseconds since 1970")]
    enum Time {
        Ms(i64),
        Text(String),
    }
    match Option::<Time>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Time::Ms(ms)) => Ok(Some(ms)),
        Some(Time::Text(text)) => time_ms(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an attribute's value is a string or a list of strings")]
    enum Values {
        One(String),
        Many(Vec<String>),
    }
    let values = BTreeMap::<String, Values>::deserialize(deserializer)?;
    let list = |values| match values {
        Values::One(value) => vec![value],
        Values::Many(values) => values,
    };
    Ok(values.into_iter().map(|(key, values)| (key, list(values))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(json: &str) -> Result<Filter, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn an_empty_filter_is_none() {
        assert_eq!(Filter::default().to_qdrant().unwrap(), None);
        assert_eq!(filter("{}").unwrap(), Filter::default());
    }

    #[test]
    fn a_filter_round_trips_through_json() {
        let read = filter(
            r#"{"sources": ["a"], "not_sources": ["b"], "created_from": "1970-01-02", "created_before": 90000000,
                "min_length": 1, "max_length": 9, "attributes": {"style": "oil", "mood": ["calm", "dark"]}, "words": "red",
                "phrase": "a red", "contains": "ed st"}"#,
        )
        .unwrap();
        assert_eq!((read.created_from_ms, read.created_before_ms), (Some(86_400_000), Some(90_000_000)));
        assert_eq!(read.attributes["style"], ["oil"]);
        assert_eq!(read.attributes["mood"], ["calm", "dark"]);
        assert_eq!(filter(&serde_json::to_string(&read).unwrap()).unwrap(), read);
        assert_eq!(read.to_qdrant().unwrap().unwrap().must.len(), 8);
    }

    #[test]
    fn an_invalid_filter_error_says_what_to_write() {
        for (json, hint) in [
            (r#"{"source": "a"}"#, "unknown field `source`"),
            (r#"{"created_from": "yesterday"}"#, "2026-11-23T22:50:00Z"),
            (r#"{"created_from": {}}"#, "RFC 3339"),
            (r#"{"attributes": {"a": 1}}"#, "a string or a list of strings"),
        ] {
            let error = filter(json).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn an_invalid_or_oversized_filter_is_refused() {
        let attributes = |key: &str, values: Vec<String>| BTreeMap::from([(key.to_owned(), values)]);
        for (filter, hint) in [
            (Filter { attributes: attributes("a\"b", vec!["c".into()]), ..Filter::default() }, "a\\\"b"),
            (Filter { attributes: attributes("a", Vec::new()), ..Filter::default() }, "no value"),
            (Filter { attributes: attributes("a", vec![String::new(); 1_001]), ..Filter::default() }, "1000"),
            (Filter { words: Some(" -, ".into()), ..Filter::default() }, "words"),
            (Filter { phrase: Some("!".into()), ..Filter::default() }, "phrase"),
            (Filter { contains: Some(String::new()), ..Filter::default() }, "empty"),
            (Filter { contains: Some("x".repeat(1_001)), ..Filter::default() }, "1000"),
            (Filter { min_length: Some(3), max_length: Some(2), ..Filter::default() }, "min_length 3"),
            (Filter { created_from_ms: Some(3), created_before_ms: Some(3), ..Filter::default() }, "times"),
        ] {
            let refused = filter.to_qdrant().unwrap_err();
            assert!(matches!(refused, IndexError::InvalidQuery { .. }));
            assert!(refused.to_string().contains(hint), "{refused}");
        }
    }

    #[test]
    fn only_words_delimited_on_both_sides_are_whole() {
        assert_eq!(whole_words("of 12 boats"), Some("12".into()));
        assert_eq!(whole_words(" 12 boats, "), Some("12 boats".into()));
        assert_eq!(whole_words("ed st"), None);
        assert_eq!(whole_words("star"), None);
    }
}
