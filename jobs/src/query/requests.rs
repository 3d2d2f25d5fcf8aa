//! Search requests from JSON, completed with defaults.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};
use unprompt_index::{Picture, SearchRequest};

use crate::JobError;

/// The longest request; a picture of 20 MB in base64 fits.
pub const MAX_REQUEST_BYTES: u64 = 32 << 20;

/// The defaults of every request.
#[derive(Clone, Debug, Default)]
pub struct RequestDefaults {
    object: Map<String, Value>,
    image_files: bool,
}

impl RequestDefaults {
    /// Defaults for the keys of a [`SearchRequest`].
    pub fn new(object: Map<String, Value>) -> Self {
        Self { object, image_files: false }
    }

    /// Lets requests name a picture on this machine as `image_file`. Only for requests of a user
    /// who may read the machine's files.
    #[must_use]
    pub fn with_image_files(self) -> Self {
        Self { image_files: true, ..self }
    }

    /// Parses a request from JSON text.
    ///
    /// # Errors
    /// [`JobError::Request`]; [`JobError::Unreadable`] for an `image_file`.
    pub fn parse(&self, text: &str) -> Result<SearchRequest, JobError> {
        let value = serde_json::from_str(text)
            .map_err(|error| JobError::Request(format!("a search is a JSON object: {error}")))?;
        match value {
            Value::Object(object) => self.complete(object),
            other => Err(JobError::Request(format!(
                "a search is a JSON object such as {{\"text\": \"a red star\"}}, not {other}"
            ))),
        }
    }

    /// Returns the request of a JSON object.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn complete(&self, object: Map<String, Value>) -> Result<SearchRequest, JobError> {
        let mut whole = self.merged(object);
        if let Some(file) = whole.get("image_file").filter(|_| self.image_files) {
            let picture = read_picture(file)?;
            whole.remove("image_file");
            let picture = serde_json::to_value(picture).map_err(invalid)?;
            if whole.insert("image".into(), picture).is_some() {
                return Err(JobError::Request("a search has one picture: image or image_file".into()));
            }
        }
        serde_json::from_value(Value::Object(whole)).map_err(invalid)
    }

    /// Merges the defaults into a request. Filters are merged by condition; the request's values
    /// take precedence.
    fn merged(&self, object: Map<String, Value>) -> Map<String, Value> {
        let mut whole = self.object.clone();
        for (key, value) in object {
            match (whole.get_mut(&key), value) {
                (Some(Value::Object(known)), Value::Object(own)) if key == "filter" => known.extend(own),
                (_, value) => {
                    whole.insert(key, value);
                }
            }
        }
        whole
    }
}

fn invalid(error: serde_json::Error) -> JobError {
    JobError::Request(error.to_string())
}

fn read_picture(file: &Value) -> Result<Picture, JobError> {
    let path =
        file.as_str().ok_or_else(|| JobError::Request("image_file must be the path of a picture".into()))?;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_REQUEST_BYTES).read_to_end(&mut bytes));
    read.map_err(|reason| JobError::Unreadable { path: Path::new(path).to_owned(), reason })?;
    Ok(Picture(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use unprompt_index::SearchTarget;

    use super::*;

    fn defaults(object: Value) -> RequestDefaults {
        let Value::Object(object) = object else { panic!("{object} is not an object") };
        RequestDefaults::new(object).with_image_files()
    }

    #[test]
    fn defaults_fill_in_the_fields_that_a_request_omits() {
        let defaults = defaults(json!({"limit": 3, "filter": {"sources": ["a"], "min_length": 5}}));
        let request = defaults.parse(r#"{"text": "x", "filter": {"min_length": 7}, "limit": 4}"#).unwrap();
        assert_eq!((request.limit, request.filter.min_length), (4, Some(7)));
        assert_eq!(request.filter.sources, ["a"]);
        assert_eq!(defaults.parse(r#"{"text": "x"}"#).unwrap().limit, 3);
    }

    #[test]
    fn an_invalid_search_request_is_refused_with_its_reason() {
        let defaults = defaults(json!({}));
        for (json, hint) in [
            ("nonsense", "JSON object"),
            ("[1]", "JSON object"),
            (r#"{"text": "x", "filters": {}}"#, "unknown field `filters`"),
            (r#"{"text": "x", "filter": {"source": "a"}}"#, "unknown field `source`"),
            (r#"{"image_file": "/no/such.png"}"#, "/no/such.png"),
            (r#"{"image_file": 3}"#, "path"),
            ("{}", "exactly one of text"),
        ] {
            let error = defaults.parse(json).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_request_has_one_picture_and_reads_files_only_if_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1, 2, 3]).unwrap();
        let by_file = json!({"image_file": file.path()}).to_string();
        let allowed = defaults(json!({}));
        assert_eq!(allowed.parse(&by_file).unwrap().wanted, SearchTarget::Picture(Picture(vec![1, 2, 3])));
        let both = json!({"image_file": file.path(), "image": "AAAA"}).to_string();
        assert!(allowed.parse(&both).unwrap_err().to_string().contains("one picture"));
        let refused = RequestDefaults::default().parse(&by_file).unwrap_err().to_string();
        assert!(refused.contains("unknown field `image_file`"), "{refused}");
    }
}
