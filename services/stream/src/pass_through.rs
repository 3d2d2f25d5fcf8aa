//! A stage that copies its input and so shows the runner's own cost, for tests and benchmarks.

use unprompt_schemas::topics::Topic;

use crate::{BatchError, InputRecord, Outcome, OutputRecord, Service, Stage};

/// The pass-through service.
pub const SERVICE: Service = Service::new("pass-through", &[Topic::Images], &[Topic::ImageEmbeddings]);

/// Copies images.v1 to image-embeddings.v1, with key, value and headers unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassThrough;

impl Stage for PassThrough {
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        Ok(batch.iter().map(|record| Outcome::Outputs(vec![copy(record)])).collect())
    }
}

/// Copies a record for image-embeddings.v1.
pub fn copy(record: &InputRecord) -> OutputRecord {
    OutputRecord {
        topic: Topic::ImageEmbeddings,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.clone(),
    }
}
