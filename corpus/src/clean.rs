//! Cleaning, modelled on the competition's winning solutions: each row is kept, or dropped for one
//! reason. It knows nothing about files.

mod language;
mod normal;

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};
use unprompt_schemas::identity::NAMESPACE;
use unprompt_schemas::records::{ATTRIBUTES_MAX_BYTES, PROMPT_MAX_BYTES, SOURCE_MAX_BYTES, attributes_bytes};
use uuid::Uuid;

use self::language::Languages;
use crate::CorpusError;
use crate::report::Reason;
use crate::row::Row;

/// Counts the tokens of a text.
pub type CountTokens = Box<dyn Fn(&str) -> usize + Send>;

/// The rules of cleaning. The default drops empty texts, texts too long to be a prompt, and exact
/// duplicates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cleaning {
    /// Bounds on the characters of the cleaned text, both included.
    pub min_chars: Option<usize>,
    pub max_chars: Option<usize>,
    /// Bounds on tokens, both included. Tokens are words, unless the caller counts otherwise.
    pub min_tokens: Option<usize>,
    pub max_tokens: Option<usize>,
    /// Languages to keep (ISO 639: en, eng); empty keeps all. Texts too short to identify are kept.
    pub languages: Vec<String>,
    /// Keep texts that occurred before.
    pub keep_duplicates: bool,
    /// Bounds on scores; rows without the score pass.
    pub min_similarity: Option<f64>,
    pub min_aesthetic: Option<f64>,
    pub max_nsfw: Option<f64>,
}

/// Decides row by row. It remembers 8 bytes of each kept text's id in a hash set, which takes 10 to
/// 21 bytes per prompt.
pub struct Cleaner {
    cleaning: Cleaning,
    languages: Languages,
    count_tokens: CountTokens,
    seen: HashSet<u64, BuildHasherDefault<Unhashed>>,
    /// Rows that passed a bound because they have no such score: similarity, aesthetic, nsfw.
    without_score: [u64; 3],
}

impl Cleaner {
    /// Creates a cleaner that has seen no row. Without `count_tokens`, words are counted.
    ///
    /// # Errors
    /// [`CorpusError::Options`] for bounds that no text meets and languages that cannot be
    /// detected.
    pub fn new(cleaning: Cleaning, count_tokens: Option<CountTokens>) -> Result<Self, CorpusError> {
        let bounds = [
            ("characters", cleaning.min_chars, cleaning.max_chars),
            ("tokens", cleaning.min_tokens, cleaning.max_tokens),
        ];
        for (what, min, max) in bounds {
            if let (Some(min), Some(max)) = (min, max)
                && min > max
            {
                return Err(CorpusError::Options(format!(
                    "no text has at least {min} and at most {max} {what}"
                )));
            }
        }
        let languages = Languages::new(&cleaning.languages)?;
        let count_tokens =
            count_tokens.unwrap_or_else(|| Box::new(|text: &str| text.split_whitespace().count()));
        Ok(Self { cleaning, languages, count_tokens, seen: HashSet::default(), without_score: [0; 3] })
    }

    /// Returns the row with its text normalised.
    ///
    /// # Errors
    /// The reason for dropping the row, with its normalised text. This is not a failure.
    pub fn clean(&mut self, mut row: Row) -> Result<Row, (Reason, String)> {
        row.text = normal::normalise(&row.text);
        let reason = self.reason(&row);
        match reason {
            None => Ok(row),
            Some(reason) => Err((reason, row.text)),
        }
    }

    /// Returns how many rows passed each bound because they have no such score.
    #[must_use]
    pub fn without_score(&self) -> [(&'static str, u64); 3] {
        let [similarity, aesthetic, nsfw] = self.without_score;
        [("similarity", similarity), ("aesthetic", aesthetic), ("nsfw", nsfw)]
    }

    fn reason(&mut self, row: &Row) -> Option<Reason> {
        if row.text.is_empty() {
            return Some(Reason::Empty);
        }
        if let Some(reason) = self.length(&row.text) {
            return Some(reason);
        }
        if row.source.len() > SOURCE_MAX_BYTES || attributes_bytes(&row.attributes) > ATTRIBUTES_MAX_BYTES {
            return Some(Reason::DetailsTooLong);
        }
        if !self.languages.keeps(&row.text) {
            return Some(Reason::Language);
        }
        // Ids are remembered last, because a text dropped by a bound on scores may occur again with
        // a better score.
        if let Some(reason) = self.quality(row) {
            return Some(reason);
        }
        let fresh = self.cleaning.keep_duplicates || self.seen.insert(half_of_id(&row.text));
        (!fresh).then_some(Reason::Duplicate)
    }

    fn length(&self, text: &str) -> Option<Reason> {
        let cleaning = &self.cleaning;
        if text.len() > PROMPT_MAX_BYTES {
            return Some(Reason::TooLong);
        }
        if cleaning.min_chars.is_some() || cleaning.max_chars.is_some() {
            let chars = text.chars().count();
            let reason = outside(chars, cleaning.min_chars, cleaning.max_chars);
            if reason.is_some() {
                return reason;
            }
        }
        if cleaning.min_tokens.is_some() || cleaning.max_tokens.is_some() {
            return outside((self.count_tokens)(text), cleaning.min_tokens, cleaning.max_tokens);
        }
        None
    }

    fn quality(&mut self, row: &Row) -> Option<Reason> {
        let (cleaning, scores) = (&self.cleaning, &row.scores);
        let bounds = [
            (cleaning.min_similarity, scores.similarity, 1.0, Reason::Similarity),
            (cleaning.min_aesthetic, scores.aesthetic, 1.0, Reason::Aesthetic),
            // A negative sign turns the upper bound into a lower one.
            (cleaning.max_nsfw, scores.nsfw, -1.0, Reason::Nsfw),
        ];
        let mut dropped = None;
        for (at, (bound, score, sign, reason)) in bounds.into_iter().enumerate() {
            match (bound, score) {
                (Some(bound), Some(score)) if sign * score < sign * bound => {
                    dropped = dropped.or(Some(reason))
                }
                (Some(_), None) => self.without_score[at] += 1,
                _ => {}
            }
        }
        dropped
    }
}

fn outside(length: usize, min: Option<usize>, max: Option<usize>) -> Option<Reason> {
    if min.is_some_and(|min| length < min) {
        return Some(Reason::TooShort);
    }
    max.is_some_and(|max| length > max).then_some(Reason::TooLong)
}

/// Returns 62 random bits of the id: the chance that any two of 100 million texts share them is 0.1
/// %.
///
/// The text is already normalised, which is most of the work of `prompt_id`.
fn half_of_id(normal: &str) -> u64 {
    Uuid::new_v5(&NAMESPACE, normal.as_bytes()).as_u64_pair().1
}

/// Passes ids through unchanged, because they are hashes already.
#[derive(Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, value: u64) {
        // The two highest bits are the same in all ids, and the hash table uses the highest seven.
        self.0 = value.rotate_left(2);
    }
}

impl std::fmt::Debug for Cleaner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cleaner").field("cleaning", &self.cleaning).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::row::Scores;

    fn cleaner(cleaning: Cleaning) -> Cleaner {
        Cleaner::new(cleaning, None).unwrap()
    }

    #[test]
    fn the_duplicate_key_is_the_lower_half_of_the_prompt_id() {
        let text = normal::normalise(" a  cafe\u{301}\n");
        let id = unprompt_schemas::identity::prompt_id(" a  cafe\u{301}\n");
        assert_eq!(half_of_id(&text), id.as_u64_pair().1);
    }

    fn row(text: &str) -> Row {
        Row { text: text.into(), ..Row::default() }
    }

    fn reason(cleaner: &mut Cleaner, text: &str) -> Option<Reason> {
        cleaner.clean(row(text)).err().map(|(reason, _)| reason)
    }

    #[test]
    fn texts_with_one_identity_are_kept_once() {
        let mut cleaner = cleaner(Cleaning::default());
        assert_eq!(reason(&mut cleaner, "a caf\u{e9}"), None);
        assert_eq!(reason(&mut cleaner, "a  cafe\u{301}\u{200b} "), Some(Reason::Duplicate));
        assert_eq!(reason(&mut cleaner, "A caf\u{e9}"), None, "case is kept");
        assert_eq!(reason(&mut cleaner, " \u{feff}\n"), Some(Reason::Empty));
    }

    #[test]
    fn bounds_on_characters_and_tokens_are_inclusive() {
        let mut cleaner = cleaner(Cleaning {
            min_chars: Some(3),
            max_chars: Some(12),
            min_tokens: Some(2),
            max_tokens: Some(3),
            ..Cleaning::default()
        });
        let told = [
            ("a", Some(Reason::TooShort)),
            ("abc", Some(Reason::TooShort)),
            ("a b", None),
            ("a b c d", Some(Reason::TooLong)),
            ("a star at se", Some(Reason::TooLong)),
            ("a star aloft", None),
            ("a star aloft!", Some(Reason::TooLong)),
        ];
        for (text, wanted) in told {
            assert_eq!(reason(&mut cleaner, text), wanted, "{text}");
        }
        let mut counted = Cleaner::new(
            Cleaning { max_tokens: Some(4), ..Cleaning::default() },
            Some(Box::new(|text: &str| text.len())),
        )
        .unwrap();
        assert_eq!(reason(&mut counted, "a b c"), Some(Reason::TooLong), "the caller's counter is used");
    }

    #[test]
    fn a_text_longer_than_prompt_max_bytes_is_dropped() {
        let mut cleaner = cleaner(Cleaning::default());
        assert_eq!(reason(&mut cleaner, &"x".repeat(PROMPT_MAX_BYTES)), None);
        assert_eq!(reason(&mut cleaner, &"y".repeat(PROMPT_MAX_BYTES + 1)), Some(Reason::TooLong));
    }

    #[test]
    fn a_row_with_an_oversized_source_or_attributes_is_dropped() {
        let mut cleaner = cleaner(Cleaning::default());
        let attributes = |bytes: usize| BTreeMap::from([("k".to_owned(), "v".repeat(bytes - 1))]);
        let rows = [
            Row { text: "a".into(), source: "s".repeat(SOURCE_MAX_BYTES), ..Row::default() },
            Row { text: "b".into(), source: "s".repeat(SOURCE_MAX_BYTES + 1), ..Row::default() },
            Row { text: "c".into(), attributes: attributes(ATTRIBUTES_MAX_BYTES), ..Row::default() },
            Row { text: "d".into(), attributes: attributes(ATTRIBUTES_MAX_BYTES + 1), ..Row::default() },
        ];
        let reasons = rows.map(|row| cleaner.clean(row).err().map(|(reason, _)| reason));
        let too_long = Some(Reason::DetailsTooLong);
        assert_eq!(reasons, [None, too_long, None, too_long]);
    }

    #[test]
    fn scores_out_of_bounds_drop_a_row_and_absent_ones_do_not() {
        let bounds = Cleaning {
            min_similarity: Some(0.28),
            min_aesthetic: Some(5.0),
            max_nsfw: Some(0.5),
            ..Cleaning::default()
        };
        let mut cleaner = cleaner(bounds);
        let mut told = |text: &str, similarity, aesthetic, nsfw| {
            let scores = Scores { similarity, aesthetic, nsfw };
            cleaner.clean(Row { scores, ..row(text) }).err().map(|(reason, _)| reason)
        };
        assert_eq!(told("a", Some(0.28), Some(5.0), Some(0.5)), None);
        assert_eq!(told("b", Some(0.27), Some(9.0), Some(0.0)), Some(Reason::Similarity));
        assert_eq!(told("c", Some(0.3), Some(4.9), Some(0.0)), Some(Reason::Aesthetic));
        assert_eq!(told("d", Some(0.3), Some(5.1), Some(0.6)), Some(Reason::Nsfw));
        assert_eq!(told("e", None, None, Some(0.1)), None);
        assert_eq!(told("d", Some(0.3), Some(5.1), Some(0.1)), None, "a dropped text may occur again");
        assert_eq!(cleaner.without_score(), [("similarity", 1), ("aesthetic", 1), ("nsfw", 0)]);
    }

    #[test]
    fn a_text_in_another_language_is_dropped_and_an_undetected_one_is_kept() {
        let mut cleaner = cleaner(Cleaning { languages: vec!["en".into()], ..Cleaning::default() });
        let russian = "рыжий кот спит на подоконнике старого дома у моря";
        assert_eq!(reason(&mut cleaner, russian), Some(Reason::Language));
        assert_eq!(reason(&mut cleaner, "a red fox that sleeps on the window sill of an old house"), None);
        assert_eq!(reason(&mut cleaner, "trending on artstation, 8k"), None);
        let refused =
            Cleaner::new(Cleaning { languages: vec!["klingon".into()], ..Cleaning::default() }, None);
        assert!(refused.unwrap_err().to_string().contains("klingon"));
    }

    #[test]
    fn a_minimum_above_the_maximum_is_refused() {
        let none = Cleaning { min_chars: Some(9), max_chars: Some(3), ..Cleaning::default() };
        assert!(Cleaner::new(none, None).unwrap_err().to_string().contains("at least 9"));
    }
}
