//! A search as users write it, also by text or picture: the same object on the command line, over
//! HTTP and in Rust. The caller encodes texts and pictures; this crate knows no neural networks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{Diversity, Filter, Query, Target, at_most, refuse};
use crate::{IndexError, MINILM_DIM, Space};

/// The default number of answers.
const DEFAULT_LIMIT: usize = 10;
/// The maximum length of a query text in characters; models read about 256 words of it.
const MAX_TEXT_CHARS: usize = 10_000;
/// The maximum size of a query picture in bytes.
const MAX_PICTURE_BYTES: usize = 20 << 20;
/// The maximum length of a query vector.
const MAX_DIM: usize = 65_536;

/// Encodes texts and pictures as vectors of the collection's spaces.
///
/// An implementation returns [`IndexError::InvalidQuery`] if the text or picture is to blame, and
/// [`IndexError::Encoder`] if it is not.
pub trait Encode {
    /// Encodes `texts` in the space `using`; returns unit vectors in order.
    fn texts(&mut self, using: Space, texts: &[&str]) -> Result<Vec<Vec<f32>>, IndexError>;

    /// Encodes a PNG, JPEG or WebP in the CLIP space; returns a unit vector.
    fn picture(&mut self, picture: &[u8]) -> Result<Vec<f32>, IndexError>;
}

/// A picture's bytes; base64 in JSON.
#[derive(Clone, PartialEq)]
pub struct Picture(pub Vec<u8>);

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} bytes)", self.0.len())
    }
}

impl Serialize for Picture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Picture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.trim());
        let unreadable = |error| serde::de::Error::custom(format!("the image is not base64: {error}"));
        bytes.map(Self).map_err(unreadable)
    }
}

/// The input that a request searches by.
#[derive(Debug, Clone, PartialEq)]
pub enum SearchTarget {
    Text(String),
    Picture(Picture),
    Vector(Vec<f32>),
    /// Prompts similar to this prompt of the index, which is not among the answers.
    Like(Uuid),
}

/// A search as its JSON object: one of `text`, `image` (base64), `vector` and `like` (a prompt's
/// id); all other fields are optional.
///
/// ```json
/// {"text": "a red star", "using": "minilm", "limit": 10, "offset": 0,
///  "filter": {"sources": ["diffusiondb"], "created_from": "2026-01-01T00:00:00Z",
///             "words": "red star"},
///  "exclude": [], "threshold": 0.4, "diversity": {"group": {"similarity": 0.95}},
///  "exact": false, "ef": 128, "with_vectors": ["minilm"]}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct SearchRequest {
    pub wanted: SearchTarget,
    /// The space to search. By default MiniLM's for a text or a prompt, CLIP's for a picture, and
    /// for a vector the one that matches its length (384 is MiniLM's).
    pub using: Option<Space>,
    pub limit: usize,
    pub offset: usize,
    pub filter: Filter,
    pub exclude: Vec<Uuid>,
    pub threshold: Option<f32>,
    pub diversity: Option<Diversity>,
    pub exact: bool,
    pub ef: Option<u64>,
    /// `true` in JSON means both spaces.
    pub with_vectors: Vec<Space>,
}

impl SearchRequest {
    /// A request for the ten nearest prompts.
    pub fn new(wanted: SearchTarget) -> Self {
        Self {
            wanted,
            using: None,
            limit: DEFAULT_LIMIT,
            offset: 0,
            filter: Filter::default(),
            exclude: Vec::new(),
            threshold: None,
            diversity: None,
            exact: false,
            ef: None,
            with_vectors: Vec::new(),
        }
    }

    /// The space to search.
    pub fn space(&self) -> Space {
        let usual = match &self.wanted {
            SearchTarget::Text(_) | SearchTarget::Like(_) => Space::MiniLm,
            SearchTarget::Picture(_) => Space::Clip,
            SearchTarget::Vector(vector) if vector.len() == MINILM_DIM => Space::MiniLm,
            SearchTarget::Vector(_) => Space::Clip,
        };
        self.using.unwrap_or(usual)
    }

    /// Refuses a request that cannot be answered, before any vector is computed.
    ///
    /// # Errors
    /// [`IndexError::InvalidQuery`], which names the bound or what to give instead.
    pub fn check(&self) -> Result<(), IndexError> {
        match &self.wanted {
            SearchTarget::Text(text) if text.trim().is_empty() => {
                refuse("its text is empty; say what to look for")?;
            }
            SearchTarget::Text(text) => {
                at_most(text.chars().count(), MAX_TEXT_CHARS, "text's length in characters")?
            }
            SearchTarget::Picture(Picture(bytes)) => {
                at_most(bytes.len(), MAX_PICTURE_BYTES, "picture's size in bytes")?;
            }
            SearchTarget::Vector(vector) => at_most(vector.len(), MAX_DIM, "vector's length")?,
            SearchTarget::Like(_) => {}
        }
        if let (SearchTarget::Picture(_), Space::MiniLm) = (&self.wanted, self.space()) {
            refuse("a picture has no vector in MiniLM's space; search by picture in clip's")?;
        }
        self.query(Target::Vector(Vec::new())).check_all_but_target()
    }

    /// Encodes the text or picture with `encoder` and returns the query.
    ///
    /// # Errors
    /// [`IndexError::InvalidQuery`], and the errors of the encoder.
    pub fn resolve(&self, encoder: &mut dyn Encode) -> Result<Query, IndexError> {
        let resolved = resolve_batch(std::slice::from_ref(self), encoder).pop();
        resolved.unwrap_or_else(|| refuse("there is no request"))
    }

    fn query(&self, target: Target) -> Query {
        Query {
            using: self.space(),
            target,
            limit: self.limit,
            offset: self.offset,
            filter: self.filter.clone(),
            exclude: self.exclude.clone(),
            threshold: self.threshold,
            diversity: self.diversity,
            with_vectors: self.with_vectors.clone(),
            with_payload: true,
            exact: self.exact,
            ef: self.ef,
        }
    }
}

/// Resolves many requests, in order. The texts of each space are encoded together. A request that
/// fails its check does not fail the others; an error of the encoder fails all texts of its space.
pub fn resolve_batch(requests: &[SearchRequest], encoder: &mut dyn Encode) -> Vec<Result<Query, IndexError>> {
    let mut targets: Vec<Result<Option<Target>, IndexError>> =
        requests.iter().map(|request| request.check().map(|()| None)).collect();
    for space in [Space::MiniLm, Space::Clip] {
        encode_texts(requests, &mut targets, space, encoder);
    }
    let finished = requests.iter().zip(targets).map(|(request, target)| {
        let target = match (target?, &request.wanted) {
            (Some(target), _) => target,
            (None, SearchTarget::Picture(Picture(bytes))) => Target::Vector(encoder.picture(bytes)?),
            (None, SearchTarget::Vector(vector)) => Target::Vector(vector.clone()),
            (None, SearchTarget::Like(id)) => Target::Prompt(*id),
            (None, SearchTarget::Text(_)) => return too_few(),
        };
        let query = request.query(target);
        query.check().map(|()| query)
    });
    finished.collect()
}

fn encode_texts(
    requests: &[SearchRequest],
    targets: &mut [Result<Option<Target>, IndexError>],
    space: Space,
    encoder: &mut dyn Encode,
) {
    let text_of = |place: usize| match &requests[place].wanted {
        SearchTarget::Text(text) if requests[place].space() == space => Some((place, text.as_str())),
        _ => None,
    };
    let wanted: Vec<(usize, &str)> =
        (0..requests.len()).filter(|place| targets[*place].is_ok()).filter_map(text_of).collect();
    if wanted.is_empty() {
        return;
    }
    let texts: Vec<&str> = wanted.iter().map(|(_, text)| *text).collect();
    match encoder.texts(space, &texts) {
        Ok(vectors) => {
            for ((place, _), vector) in wanted.iter().zip(vectors) {
                targets[*place] = Ok(Some(Target::Vector(vector)));
            }
        }
        Err(error) => {
            for (place, _) in wanted {
                targets[place] = Err(again(&error));
            }
        }
    }
}

/// Copies the encoder's error for another text of the same call.
fn again(error: &IndexError) -> IndexError {
    match error {
        IndexError::InvalidQuery { reason } => IndexError::InvalidQuery { reason: reason.clone() },
        IndexError::Encoder { reason } => IndexError::Encoder { reason: reason.clone() },
        other => IndexError::Encoder { reason: other.to_string() },
    }
}

fn too_few<T>() -> Result<T, IndexError> {
    Err(IndexError::Encoder { reason: "the encoder returned fewer vectors than there were texts".into() })
}

/// The JSON object.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<Picture>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vector: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    like: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    using: Option<Space>,
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default)]
    offset: usize,
    #[serde(default)]
    filter: Filter,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    diversity: Option<Diversity>,
    #[serde(default)]
    exact: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ef: Option<u64>,
    #[serde(default, deserialize_with = "spaces", skip_serializing_if = "Vec::is_empty")]
    with_vectors: Vec<Space>,
}

fn default_limit() -> usize {
    DEFAULT_LIMIT
}

fn spaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Space>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "with_vectors is true, false or a list of \"minilm\" and \"clip\"")]
    enum Spaces {
        All(bool),
        These(Vec<Space>),
    }
    Ok(match Spaces::deserialize(deserializer)? {
        Spaces::All(true) => vec![Space::MiniLm, Space::Clip],
        Spaces::All(false) => Vec::new(),
        Spaces::These(spaces) => spaces,
    })
}

impl TryFrom<Wire> for SearchRequest {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let Wire { text, image, vector, like, .. } = wire;
        let mut wanted = [
            text.map(SearchTarget::Text),
            image.map(SearchTarget::Picture),
            vector.map(SearchTarget::Vector),
            like.map(SearchTarget::Like),
        ]
        .into_iter()
        .flatten();
        let (Some(wanted), None) = (wanted.next(), wanted.next()) else {
            return Err("a search is by exactly one of text, image, vector and like".into());
        };
        Ok(Self {
            wanted,
            using: wire.using,
            limit: wire.limit,
            offset: wire.offset,
            filter: wire.filter,
            exclude: wire.exclude,
            threshold: wire.threshold,
            diversity: wire.diversity,
            exact: wire.exact,
            ef: wire.ef,
            with_vectors: wire.with_vectors,
        })
    }
}

impl From<SearchRequest> for Wire {
    fn from(request: SearchRequest) -> Self {
        let mut wire = Self {
            text: None,
            image: None,
            vector: None,
            like: None,
            using: request.using,
            limit: request.limit,
            offset: request.offset,
            filter: request.filter,
            exclude: request.exclude,
            threshold: request.threshold,
            diversity: request.diversity,
            exact: request.exact,
            ef: request.ef,
            with_vectors: request.with_vectors,
        };
        match request.wanted {
            SearchTarget::Text(text) => wire.text = Some(text),
            SearchTarget::Picture(picture) => wire.image = Some(picture),
            SearchTarget::Vector(vector) => wire.vector = Some(vector),
            SearchTarget::Like(id) => wire.like = Some(id),
        }
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An encoder whose vector is the text's length; it records its calls.
    #[derive(Default)]
    struct Lengths {
        calls: Vec<(Space, usize)>,
        broken: bool,
    }

    impl Encode for Lengths {
        fn texts(&mut self, using: Space, texts: &[&str]) -> Result<Vec<Vec<f32>>, IndexError> {
            self.calls.push((using, texts.len()));
            if self.broken {
                return Err(IndexError::Encoder { reason: "out of order".into() });
            }
            Ok(texts.iter().map(|text| vec![text.len() as f32]).collect())
        }

        fn picture(&mut self, picture: &[u8]) -> Result<Vec<f32>, IndexError> {
            if picture.is_empty() { refuse("the picture is empty") } else { Ok(vec![-1.0]) }
        }
    }

    fn request(json: &str) -> SearchRequest {
        serde_json::from_str(json).unwrap()
    }

    fn error(json: &str) -> String {
        serde_json::from_str::<SearchRequest>(json).unwrap_err().to_string()
    }

    #[test]
    fn a_request_round_trips_through_json() {
        let id = Uuid::from_u128(7);
        for json in [
            r#"{"text": "x", "using": "clip", "diversity": {"mmr": {"lambda": 0.5}}, "with_vectors": true}"#
                .to_owned(),
            r#"{"image": "AQID", "threshold": 0.25, "diversity": {"group": {"similarity": 0.95}}}"#
                .to_owned(),
            r#"{"vector": [0.5, -0.5], "limit": 3, "offset": 6, "exact": true, "ef": 64}"#.to_owned(),
            format!(r#"{{"like": "{id}", "exclude": ["{id}"], "filter": {{"words": "red"}}}}"#),
            r#"{"vector": [1], "with_vectors": ["clip"]}"#.to_owned(),
        ] {
            let read = request(&json);
            assert_eq!(request(&serde_json::to_string(&read).unwrap()), read);
        }
        let SearchRequest { wanted, using, limit, .. } = request(r#"{"image": "AQID"}"#);
        assert_eq!((wanted, using, limit), (SearchTarget::Picture(Picture(vec![1, 2, 3])), None, 10));
    }

    #[test]
    fn an_invalid_request_error_says_why() {
        for (json, hint) in [
            ("{}", "exactly one of text, image, vector and like"),
            (r#"{"text": "a", "vector": [1]}"#, "exactly one"),
            (r#"{"text": "a", "limits": 3}"#, "unknown field `limits`"),
            (r#"{"text": "a", "using": "bert"}"#, "unknown variant `bert`"),
            (r#"{"image": "pictures/1.png"}"#, "base64"),
            (r#"{"text": "a", "diversity": {"mmr": {"lamda": 1}}}"#, "unknown field `lamda`"),
            (r#"{"text": "a", "with_vectors": "clip"}"#, "true, false or a list"),
            (r#"{"text": "a", "limit": -1}"#, "-1"),
        ] {
            let error = error(json);
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn the_search_space_follows_from_the_target_unless_it_is_given() {
        let space = |json: &str| request(json).space();
        assert_eq!(space(r#"{"text": "a"}"#), Space::MiniLm);
        assert_eq!(space(r#"{"text": "a", "using": "clip"}"#), Space::Clip);
        assert_eq!(space(r#"{"image": "AQID"}"#), Space::Clip);
        assert_eq!(space(r#"{"vector": [1, 2]}"#), Space::Clip);
        assert_eq!(SearchRequest::new(SearchTarget::Vector(vec![0.0; 384])).space(), Space::MiniLm);
        assert_eq!(SearchRequest::new(SearchTarget::Like(Uuid::nil())).space(), Space::MiniLm);
    }

    #[test]
    fn texts_of_a_space_are_encoded_in_one_call_and_a_bad_request_fails_alone() {
        let requests = [
            request(r#"{"text": "abc"}"#),
            request(r#"{"text": "  "}"#),
            request(r#"{"text": "ab", "using": "clip", "limit": 4}"#),
            request(r#"{"image": "AQID"}"#),
            request(r#"{"image": ""}"#),
            request(r#"{"image": "AQID", "using": "minilm"}"#),
            request(r#"{"text": "abcd", "limit": 20000}"#),
            request(r#"{"text": "abcde"}"#),
        ];
        let mut encoder = Lengths::default();
        let resolved = resolve_batch(&requests, &mut encoder);
        assert_eq!(encoder.calls, [(Space::MiniLm, 2), (Space::Clip, 1)]);
        let vector = |place: usize| match &resolved[place] {
            Ok(Query { target: Target::Vector(vector), .. }) => vector[0],
            other => panic!("{other:?}"),
        };
        assert_eq!([0, 2, 3, 7].map(vector), [3.0, 2.0, -1.0, 5.0]);
        for (place, hint) in [(1, "text is empty"), (4, "picture is empty"), (5, "clip"), (6, "10000")] {
            let error = resolved[place].as_ref().unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn an_encoder_error_fails_only_the_text_requests() {
        let requests = [request(r#"{"text": "abc"}"#), request(r#"{"vector": [1]}"#)];
        let mut encoder = Lengths { broken: true, ..Lengths::default() };
        let resolved = resolve_batch(&requests, &mut encoder);
        assert!(matches!(&resolved[0], Err(IndexError::Encoder { reason }) if reason == "out of order"));
        assert!(resolved[1].is_ok());
    }

    #[test]
    fn a_text_over_the_bound_is_refused_with_the_bound() {
        let refused =
            SearchRequest::new(SearchTarget::Text("x".repeat(10_001))).check().unwrap_err().to_string();
        assert!(refused.contains("10000"), "{refused}");
    }
}
