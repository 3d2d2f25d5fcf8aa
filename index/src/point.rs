//! A prompt as the index stores it, and as a search returns it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use unprompt_schemas::records::{ATTRIBUTES_MAX_BYTES, PROMPT_MAX_BYTES, attributes_bytes, check_vector};
use uuid::Uuid;

use crate::{IndexError, Layout, NearDuplicate, Space};

/// The maximum number of sources that a prompt keeps.
pub(crate) const MAX_SOURCES: usize = 256;

/// One prompt of the collection. Vectors are unit norm.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptPoint {
    pub prompt_id: Uuid,
    pub text: String,
    /// The sources in which the prompt was seen, sorted, without repetition.
    pub sources: Vec<String>,
    /// The earliest time the prompt was seen, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// Its latest write, by which deletions are compared with it; `None` for a prompt that did not
    /// come from a topic.
    pub version: Option<Version>,
    pub attributes: BTreeMap<String, String>,
    /// \[384\]; empty if the read did not request vectors.
    pub minilm: Vec<f32>,
    /// \[the encoder's dimension\]; empty if the read did not request vectors.
    pub clip: Vec<f32>,
}

impl PromptPoint {
    /// The vector of `space`.
    pub fn vector(&self, space: Space) -> &[f32] {
        match space {
            Space::Clip => &self.clip,
            Space::MiniLm => &self.minilm,
        }
    }

    /// Merges the known state of the same prompt: sources are united, the earliest creation wins,
    /// and attributes are added where the later write has none of that name. Neither grows beyond
    /// its limit, however often a prompt is written: known sources stay, and attributes stay while
    /// they fit.
    pub(crate) fn absorb(&mut self, known: Known) {
        let new = std::mem::replace(&mut self.sources, known.sources);
        for source in new {
            if self.sources.len() < MAX_SOURCES && !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
        self.sources.sort_unstable();
        self.sources.dedup();
        self.created_at_ms = self.created_at_ms.min(known.created_at_ms);
        let mut further = known.attributes;
        match (self.version, known.version) {
            (Some(own), Some(other)) if !own.supersedes(other) => {
                std::mem::swap(&mut self.attributes, &mut further);
                self.version = known.version;
            }
            // A write that is not from a topic has no effect on deletions.
            (None, other) => self.version = other,
            _ => {}
        }
        let mut bytes = attributes_bytes(&self.attributes);
        for (key, value) in further {
            let more = key.len() + value.len();
            if !self.attributes.contains_key(&key) && bytes + more <= ATTRIBUTES_MAX_BYTES {
                bytes += more;
                self.attributes.insert(key, value);
            }
        }
    }

    /// The bytes of its texts and vectors, about what a message with it takes.
    pub(crate) fn size_bytes(&self) -> usize {
        let texts: usize = self.sources.iter().map(String::len).sum();
        let vectors = 4 * (self.minilm.len() + self.clip.len());
        self.text.len() + texts + attributes_bytes(&self.attributes) + vectors
    }

    pub(crate) fn check(&self, layout: Option<&Layout>) -> Result<(), IndexError> {
        let refuse = |reason: String| IndexError::InvalidPoint { prompt_id: self.prompt_id, reason };
        for space in [Space::Clip, Space::MiniLm] {
            let vector = self.vector(space);
            if vector.is_empty() {
                return Err(refuse(format!("it has no {} vector", space.name())));
            }
            if let Some(dim) = layout.map(|l| l.dim(space)).filter(|dim| *dim != vector.len()) {
                let got = vector.len();
                return Err(refuse(format!("its {} vector has {got} values, not {dim}", space.name())));
            }
            if let Err(fault) = check_vector(vector, vector.len()) {
                return Err(refuse(format!("its {} vector {fault}", space.name())));
            }
        }
        if self.text.len() > PROMPT_MAX_BYTES {
            let got = self.text.len();
            return Err(refuse(format!("its text has {got} bytes, more than {PROMPT_MAX_BYTES}")));
        }
        Ok(())
    }
}

/// When and where a prompt was published or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The time of the record in prompts.v1, in milliseconds since 1970.
    pub at_ms: i64,
    /// The partition of that record, if it is known.
    pub partition: Option<i32>,
}

impl Version {
    /// Returns whether this one is the later of two; `other` was processed first. Records of one
    /// partition are processed in their order; between partitions the times decide.
    pub fn supersedes(self, other: Self) -> bool {
        self.at_ms >= other.at_ms || (self.partition.is_some() && self.partition == other.partition)
    }
}

/// The state of a prompt from an earlier write.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Known {
    pub sources: Vec<String>,
    pub created_at_ms: i64,
    pub version: Option<Version>,
    pub attributes: BTreeMap<String, String>,
    /// True if the point has a field for the text's length; points written before the field existed
    /// lack it.
    pub has_length: bool,
}

impl Known {
    /// Returns whether writing `point` again would change nothing. Its vectors follow from its
    /// text.
    pub fn covers(&self, point: &PromptPoint) -> bool {
        let has_source = |source| self.sources.len() >= MAX_SOURCES || self.sources.contains(source);
        self.has_length
            && self.created_at_ms <= point.created_at_ms
            && (point.version.is_none() || self.version == point.version)
            && point.sources.iter().all(has_source)
            && point.attributes.iter().all(|(key, value)| self.attributes.get(key) == Some(value))
    }
}

/// Merges points of the same id, in order of first appearance; the text and vectors of the last one
/// win.
pub(crate) fn merge_repeats(points: Vec<PromptPoint>) -> Vec<PromptPoint> {
    let mut places: HashMap<Uuid, usize> = HashMap::with_capacity(points.len());
    let mut merged: Vec<PromptPoint> = Vec::with_capacity(points.len());
    for mut point in points {
        point.sources.sort_unstable();
        point.sources.dedup();
        match places.entry(point.prompt_id) {
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(point);
            }
            Entry::Occupied(place) => {
                let earlier = std::mem::replace(&mut merged[*place.get()], point);
                merged[*place.get()].absorb(earlier.into());
            }
        }
    }
    merged
}

impl From<PromptPoint> for Known {
    fn from(point: PromptPoint) -> Self {
        let PromptPoint { sources, created_at_ms, version, attributes, .. } = point;
        Self { sources, created_at_ms, version, attributes, has_length: true }
    }
}

/// A prompt found by a search.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Hit {
    pub prompt_id: Uuid,
    pub text: String,
    pub sources: Vec<String>,
    pub created_at_ms: i64,
    pub attributes: BTreeMap<String, String>,
    /// Cosine similarity with the query, -1 to 1.
    pub similarity: f32,
    /// The other prompts of this one's group, best first; empty unless the query groups near
    /// duplicates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near_duplicates: Vec<NearDuplicate>,
    /// \[384\], if the query requested it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minilm: Option<Vec<f32>>,
    /// \[the encoder's dimension\], if the query requested it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<Vec<f32>>,
}

impl Hit {
    /// Its similarity and its MiniLM vector \[384\], which is empty if the query did not request
    /// it.
    pub fn similarity_and_minilm(&self) -> (f32, &[f32]) {
        (self.similarity, self.minilm.as_deref().unwrap_or_default())
    }
}

impl From<Hit> for PromptPoint {
    fn from(hit: Hit) -> Self {
        Self {
            prompt_id: hit.prompt_id,
            text: hit.text,
            sources: hit.sources,
            created_at_ms: hit.created_at_ms,
            version: None,
            attributes: hit.attributes,
            minilm: hit.minilm.unwrap_or_default(),
            clip: hit.clip.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(id: u128, source: &str, created_at_ms: i64) -> PromptPoint {
        PromptPoint {
            prompt_id: Uuid::from_u128(id),
            text: format!("from {source}"),
            sources: vec![source.into()],
            created_at_ms,
            version: None,
            attributes: BTreeMap::from([(source.to_owned(), "1".to_owned())]),
            minilm: vec![1.0; 384],
            clip: vec![1.0; 8],
        }
    }

    #[test]
    fn merged_repeats_have_all_sources_the_earliest_time_and_the_latest_text() {
        let merged = merge_repeats(vec![point(1, "b", 5), point(2, "c", 9), point(1, "a", 7)]);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].sources, ["a", "b"]);
        assert_eq!(merged[0].created_at_ms, 5);
        assert_eq!(merged[0].text, "from a");
        assert_eq!(merged[0].attributes.len(), 2);
    }

    #[test]
    fn attributes_of_the_later_write_win() {
        let written = |version: Option<(i64, i32)>, style: &str| PromptPoint {
            version: version.map(|(at_ms, partition)| Version { at_ms, partition: Some(partition) }),
            attributes: BTreeMap::from([("style".to_owned(), style.to_owned())]),
            ..point(1, "a", 0)
        };
        let merged = |first, second| {
            let merged = merge_repeats(vec![first, second]).remove(0);
            (merged.version.unwrap().at_ms, merged.attributes["style"].clone())
        };
        let (old, new) = (written(Some((5, 0)), "old"), written(Some((9, 1)), "new"));
        assert_eq!(merged(old.clone(), new.clone()), (9, "new".to_owned()));
        assert_eq!(merged(new.clone(), old), (9, "new".to_owned()), "between partitions the later time wins");
        let next = written(Some((7, 1)), "next");
        assert_eq!(merged(new.clone(), next), (7, "next".to_owned()), "within a partition the order decides");
        assert_eq!(merged(new, written(None, "loaded")), (9, "loaded".to_owned()));
    }

    #[test]
    fn a_vector_without_a_direction_is_refused() {
        for value in [f32::NAN, f32::INFINITY, 1e30, 0.0] {
            let bad = PromptPoint { clip: vec![value; 8], ..point(1, "a", 0) };
            assert!(matches!(bad.check(None), Err(IndexError::InvalidPoint { .. })), "{value}");
        }
        assert!(point(1, "a", 0).check(None).is_ok());
    }

    #[test]
    fn a_prompt_written_many_times_stays_within_its_limits() {
        let mut known = point(1, "first", 9);
        for round in 0..MAX_SOURCES + 50 {
            let long = BTreeMap::from([(format!("{round:05}"), "x".repeat(1000))]);
            let mut next = PromptPoint { attributes: long, ..point(1, &format!("source {round:05}"), 5) };
            next.absorb(known.into());
            known = next;
        }
        assert_eq!(known.sources.len(), MAX_SOURCES);
        assert_eq!(known.sources[0], "first");
        assert!(attributes_bytes(&known.attributes) <= ATTRIBUTES_MAX_BYTES);
        assert!(known.attributes.contains_key("00305"), "the last write's own attributes are there");
    }

    #[test]
    fn a_vector_of_another_length_is_refused() {
        let layout = Layout::new("e@1", 9, "m@1");
        let error = point(1, "a", 0).check(Some(&layout)).unwrap_err().to_string();
        assert!(error.contains("clip vector has 8 values, not 9"), "{error}");
    }
}
