//! The result for a picture: its prediction or its dead letter.

use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::records::Prediction;
use unprompt_schemas::topics::Topic;
use unprompt_schemas::{SchemaError, Uuid};
use unprompt_stream::InputRecord;

/// The result for a published picture.
#[derive(Debug)]
pub enum ImageResult {
    Prediction(Box<Prediction>),
    DeadLetter { image_id: Uuid, reason: String },
}

/// Returns the result in a record of predictions.v1 or dead-letters.v1, if it is about a picture.
///
/// # Errors
/// If no record can be read because no schema registry is configured.
pub fn image_result_of(codec: &Codec, record: &InputRecord) -> Result<Option<ImageResult>, SchemaError> {
    match (record.topic, record.value.as_deref()) {
        (Topic::Predictions, Some(value)) => {
            let prediction = codec.decode_readable(value)?;
            Ok(prediction.map(|prediction| ImageResult::Prediction(Box::new(prediction))))
        }
        (Topic::DeadLetters, _) => Ok(dead(record)),
        _ => Ok(None),
    }
}

/// Reads a dead letter, which keeps the picture's headers and says where it came from.
fn dead(record: &InputRecord) -> Option<ImageResult> {
    let origin = DeadLetter::parse(&record.headers).ok()?;
    let event = ImageEvent::parse(&record.headers).ok()?;
    let image_id = event.image_id(&origin.topic, origin.partition, origin.offset);
    Some(ImageResult::DeadLetter { image_id, reason: origin.error })
}
