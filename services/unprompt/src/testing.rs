//! Values for tests.

use unprompt_schemas::Uuid;
use unprompt_schemas::records::Prediction;

/// Returns a prediction without parts.
pub fn prediction() -> Prediction {
    Prediction {
        image_id: Uuid::nil(),
        source_key: None,
        source_topic: "images.v1".into(),
        source_partition: 0,
        source_offset: 0,
        vector: Vec::new(),
        knn_vector: None,
        head_vector: None,
        neighbours: Vec::new(),
        expected_cosine: None,
        encoder: "tiny@0".into(),
        head: None,
        index: "prompts-tiny-0".into(),
        blend: "linear-after-normalising".into(),
        created_at_ms: 0,
    }
}
