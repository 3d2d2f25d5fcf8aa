//! What comes back for a picture: its prediction, or its dead letter.

use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::records::Prediction;
use unprompt_schemas::topics::Topic;
use unprompt_schemas::{SchemaError, Uuid};
use unprompt_stream::InputRecord;

/// An answer to a published picture.
#[derive(Debug)]
pub enum Answer {
    Prediction(Box<Prediction>),
    DeadLetter { image_id: Uuid, reason: String },
}

/// The answer that a record of predictions.v1 or dead-letters.v1 holds, if it is about a picture.
///
/// # Errors
/// Where no record can be read, for want of a schema registry.
pub fn answer_of(codec: &Codec, record: &InputRecord) -> Result<Option<Answer>, SchemaError> {
    match (record.topic, record.value.as_deref()) {
        (Topic::Predictions, Some(value)) => {
            let prediction = codec.decode_readable(value)?;
            Ok(prediction.map(|prediction| Answer::Prediction(Box::new(prediction))))
        }
        (Topic::DeadLetters, _) => Ok(dead(record)),
        _ => Ok(None),
    }
}

/// A dead letter keeps the picture's own headers, and says where it stood.
fn dead(record: &InputRecord) -> Option<Answer> {
    let origin = DeadLetter::parse(&record.headers).ok()?;
    let event = ImageEvent::parse(&record.headers).ok()?;
    let image_id = event.image_id(&origin.topic, origin.partition, origin.offset);
    Some(Answer::DeadLetter { image_id, reason: origin.error })
}
