//! The image-encoder: encoded pictures, or URIs of them, in; their CLIP vectors out.
//!
//! It knows images.v1, image-embeddings.v1, the encoder's folder and the places that pictures may be fetched from; it must not
//! know prompts or the index.

mod budget;
pub mod claim_check;
mod decoder;
mod error;

use std::path::Path;

use rayon::prelude::*;
use unprompt_models::clip::{ClipVision, Pixels};
use unprompt_models::picture::Limits;
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::{self, ImageEvent};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, NamedVector};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, OutputRecord, Refusal, Rejection, Stage};

use claim_check::{ClaimCheck, Redeemed};
use decoder::Decoder;

pub use error::EncoderError;

/// Encodes pictures; see [`ImageEncoder::load`].
#[derive(Debug)]
pub struct ImageEncoder {
    decoder: Decoder,
    claim_check: Option<ClaimCheck>,
    codec: Codec,
}

/// What a record says and holds.
struct Content<'a> {
    event: ImageEvent,
    value: &'a [u8],
}

/// A picture that passed the limits, preprocessed, with what its headers say.
struct Decoded {
    image_id: Uuid,
    prompt_id: Option<Uuid>,
    pixels: Pixels,
}

impl ImageEncoder {
    /// Loads the encoder from a folder in the transformers layout. It takes pictures in records only.
    pub fn load(clip: &Path, limits: Limits, codec: Codec) -> Result<Self, EncoderError> {
        let decoder = Decoder::new(ClipVision::load(clip)?, limits);
        Ok(Self { decoder, claim_check: None, codec })
    }

    /// Also fetches the pictures that records of `text/uri-list` name.
    #[must_use]
    pub fn with_claim_check(self, claim_check: ClaimCheck) -> Self {
        Self { claim_check: Some(claim_check), ..self }
    }

    /// Pictures of the batch that stand elsewhere, in the order of their records.
    fn redeem(
        &mut self,
        batch: &[InputRecord],
        contents: &[Result<Content<'_>, Rejection>],
    ) -> Result<Vec<Redeemed>, BatchError> {
        let contents =
            batch.iter().zip(contents).filter_map(|(record, content)| Some((record, content.as_ref().ok()?)));
        let claims: Vec<_> = contents
            .filter(|(_, content)| content.is_claim())
            .map(|(record, content)| (position(record), content.value))
            .collect();
        match (&mut self.claim_check, claims.is_empty()) {
            (_, true) => Ok(Vec::new()),
            (Some(claim_check), false) => claim_check.redeem(claims, &self.decoder),
            (None, false) => Ok(claims.iter().map(|_| Err(claim_check::nothing_allowed())).collect()),
        }
    }

    /// A picture that is in the record itself.
    fn decode_inline(&self, content: &Result<Content<'_>, Rejection>) -> Option<Redeemed> {
        let content = content.as_ref().ok().filter(|content| !content.is_claim())?;
        Some(self.decoder.decode(content.value, self.decoder.limits.max_bytes))
    }

    /// What is fetched comes first: where that has to be tried again, nothing else was done in vain.
    fn decode(&mut self, batch: &[InputRecord]) -> Result<Vec<Result<Decoded, Rejection>>, BatchError> {
        let contents: Vec<_> = batch.iter().map(Content::of).collect();
        let mut redeemed = self.redeem(batch, &contents)?.into_iter();
        let inline: Vec<_> = contents.par_iter().map(|content| self.decode_inline(content)).collect();
        let missing = || Err(Rejection::new("encode", "a picture was lost on its way; replay the record"));
        let pictures = contents.into_iter().zip(inline).zip(batch).map(|((content, inline), record)| {
            let event = content?.event;
            let pixels = inline.or_else(|| redeemed.next()).unwrap_or_else(missing)?;
            let image_id = event.image_id(&record.topic_name, record.partition, record.offset);
            Ok(Decoded { image_id, prompt_id: event.prompt_id, pixels })
        });
        Ok(pictures.collect())
    }

    fn output(
        &self,
        record: &InputRecord,
        decoded: &Decoded,
        vector: Vec<f32>,
    ) -> Result<Vec<OutputRecord>, Refusal> {
        let model = self.decoder.clip.revision().to_string();
        let embedding = ImageEmbedding {
            image_id: decoded.image_id,
            prompt_id: decoded.prompt_id,
            vectors: vec![NamedVector { model, values: vector }],
            source_key: record.key.clone(),
            source_topic: record.topic_name.clone(),
            source_partition: record.partition,
            source_offset: record.offset,
            created_at_ms: record.timestamp_ms,
        };
        let value = self.codec.encode(&record.topic_name_of(Topic::ImageEmbeddings), &embedding)?;
        Ok(vec![OutputRecord {
            topic: Topic::ImageEmbeddings,
            key: Some(decoded.image_id.to_string().into_bytes()),
            value: Some(value),
            headers: cloudevents::forwarded(&record.headers),
        }])
    }
}

impl<'a> Content<'a> {
    fn of(record: &'a InputRecord) -> Result<Self, Rejection> {
        let event =
            ImageEvent::parse(&record.headers).map_err(|e| Rejection::new("headers", e.to_string()))?;
        let value = record.value.as_deref().ok_or_else(|| {
            Rejection::new(
                "null-value",
                "a picture has no value; publish the encoded PNG, JPEG or WebP, or its URI as text/uri-list, as the value",
            )
        })?;
        Ok(Self { event, value })
    }

    fn is_claim(&self) -> bool {
        claim_check::is_uri_list(self.event.content_type.as_deref())
    }
}

fn position(record: &InputRecord) -> claim_check::Position {
    (record.topic_name.clone(), record.partition, record.offset)
}

impl Stage for ImageEncoder {
    fn name(&self) -> &'static str {
        "image-encoder"
    }

    fn inputs(&self) -> &'static [Topic] {
        &[Topic::Images]
    }

    fn outputs(&self) -> &'static [Topic] {
        &[Topic::ImageEmbeddings]
    }

    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let decoded = self.decode(batch)?;
        let pixels: Vec<_> = decoded.iter().filter_map(|d| d.as_ref().ok()).map(|d| &d.pixels).collect();
        let vectors = self.decoder.clip.embed(&pixels).map_err(|e| BatchError::Fatal(e.to_string()))?;
        let mut vectors = vectors.into_iter();
        let outcomes = decoded.into_iter().zip(batch).map(|(decoded, record)| match decoded {
            Err(rejection) => Ok(Outcome::Rejected(rejection)),
            Ok(decoded) => {
                let vector = vectors
                    .next()
                    .ok_or_else(|| BatchError::Fatal("the encoder returned too few vectors".into()))?;
                Refusal::outcome(self.output(record, &decoded, vector))
            }
        });
        outcomes.collect()
    }
}
