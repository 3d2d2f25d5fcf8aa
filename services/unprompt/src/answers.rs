//! What comes back for a picture: its prediction, or its dead letter.

use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::dead_letter::DeadLetter;
use unprompt_schemas::records::Prediction;
use unprompt_schemas::topics::Topic;
use unprompt_stream::InputRecord;

/// An answer to a published picture.
#[derive(Debug)]
pub enum Answer {
    Prediction(Box<Prediction>),
    DeadLetter { image_id: Uuid, reason: String },
}

/// The answer that a record of predictions.v1 or dead-letters.v1 holds, if it is about a picture.
pub fn answer_of(codec: &Codec, record: &InputRecord) -> Option<Answer> {
    match record.topic {
        Topic::Predictions => {
            codec.decode(record.value.as_deref()?).ok().map(|p| Answer::Prediction(Box::new(p)))
        }
        Topic::DeadLetters => dead(record),
        _ => None,
    }
}

/// A dead letter keeps the picture's own headers, and says where it stood.
fn dead(record: &InputRecord) -> Option<Answer> {
    let origin = DeadLetter::parse(&record.headers).ok()?;
    let event = ImageEvent::parse(&record.headers).ok()?;
    let image_id = event.image_id(&origin.topic, origin.partition, origin.offset);
    Some(Answer::DeadLetter { image_id, reason: origin.error })
}
