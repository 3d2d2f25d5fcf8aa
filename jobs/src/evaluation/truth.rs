//! The true prompts of pictures, as JSON lines.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use unprompt_schemas::Uuid;

use crate::JobError;

/// The true prompt of each picture, by image_id.
pub type Truth = HashMap<Uuid, String>;

/// A line of the truth.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TruthLine {
    pub image_id: Uuid,
    pub text: String,
}

/// Reads a file of true prompts and skips empty lines.
///
/// # Errors
/// [`JobError::Unreadable`], [`JobError::Truth`].
pub fn read_truth(path: &Path) -> Result<Truth, JobError> {
    let text = std::fs::read_to_string(path)
        .map_err(|reason| JobError::Unreadable { path: path.to_owned(), reason })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(at, line)| {
        let failed = |reason| JobError::Truth { path: path.display().to_string(), line: at + 1, reason };
        serde_json::from_str(line).map(|TruthLine { image_id, text }| (image_id, text)).map_err(failed)
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_truth_line_error_names_the_line_and_the_format() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = r#"{"image_id": "00000000-0000-0000-0000-000000000001", "text": "a star"}"#;
        std::fs::write(file.path(), format!("{good}\n\n")).unwrap();
        assert_eq!(read_truth(file.path()).unwrap()[&Uuid::from_u128(1)], "a star");
        std::fs::write(file.path(), format!("{good}\nnonsense\n")).unwrap();
        let error = read_truth(file.path()).unwrap_err().to_string();
        assert!(error.contains(":2:") && error.contains("image_id"), "{error}");
    }
}
