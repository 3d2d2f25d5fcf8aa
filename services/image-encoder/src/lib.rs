//! The image-encoder: encoded pictures in, their CLIP vectors out.
//!
//! It knows images.v1, image-embeddings.v1 and the encoder's folder; it must not know prompts or the index.

use std::path::Path;

use rayon::prelude::*;
use unprompt_models::clip::ClipVision;
use unprompt_models::picture::{self, Limits};
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::{self, ImageEvent};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, NamedVector};
use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, OutputRecord, Rejection, Stage};

/// Encodes pictures; see [`ImageEncoder::load`].
#[derive(Debug)]
pub struct ImageEncoder {
    clip: ClipVision,
    limits: Limits,
    codec: Codec,
}

/// A picture that passed the limits, preprocessed, with what its headers say.
struct Decoded {
    image_id: Uuid,
    prompt_id: Option<Uuid>,
    pixels: unprompt_models::clip::Pixels,
}

impl ImageEncoder {
    /// Loads the encoder from a folder in the transformers layout.
    pub fn load(clip: &Path, limits: Limits, codec: Codec) -> Result<Self, unprompt_models::ModelError> {
        Ok(Self { clip: ClipVision::load(clip)?, limits, codec })
    }

    fn decode(&self, record: &InputRecord) -> Result<Decoded, Rejection> {
        let event =
            ImageEvent::parse(&record.headers).map_err(|e| Rejection::new("headers", e.to_string()))?;
        let bytes = record.value.as_deref().ok_or_else(|| {
            Rejection::new(
                "null-value",
                "a picture has no value; publish the encoded PNG, JPEG or WebP as the value",
            )
        })?;
        refuse_claim_check(&event)?;
        let picture =
            picture::decode(bytes, &self.limits).map_err(|e| Rejection::new(e.code(), e.to_string()))?;
        Ok(Decoded {
            image_id: event.image_id(&record.topic_name, record.partition, record.offset),
            prompt_id: event.prompt_id,
            pixels: self.clip.preprocess(&picture),
        })
    }

    fn output(&self, record: &InputRecord, decoded: &Decoded, vector: Vec<f32>) -> Outcome {
        let embedding = ImageEmbedding {
            image_id: decoded.image_id,
            prompt_id: decoded.prompt_id,
            vectors: vec![NamedVector { model: self.clip.revision().to_string(), values: vector }],
            source_key: record.key.clone(),
            source_topic: record.topic_name.clone(),
            source_partition: record.partition,
            source_offset: record.offset,
            created_at_ms: record.timestamp_ms,
        };
        match self.codec.encode(&record.topic_name_of(Topic::ImageEmbeddings), &embedding) {
            Ok(value) => Outcome::Outputs(vec![OutputRecord {
                topic: Topic::ImageEmbeddings,
                key: Some(decoded.image_id.to_string().into_bytes()),
                value: Some(value),
                headers: cloudevents::forwarded(&record.headers),
            }]),
            Err(error) => Outcome::Rejected(Rejection::new("encode", error.to_string())),
        }
    }
}

fn refuse_claim_check(event: &ImageEvent) -> Result<(), Rejection> {
    match event.content_type.as_deref() {
        Some(kind) if kind.starts_with("text/uri-list") => Err(Rejection::new(
            "claim-check",
            "this release does not fetch text/uri-list pictures; publish the picture's bytes",
        )),
        _ => Ok(()),
    }
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
        let decoded: Vec<_> = batch.par_iter().map(|record| self.decode(record)).collect();
        let pixels: Vec<_> = decoded.iter().filter_map(|d| d.as_ref().ok()).map(|d| &d.pixels).collect();
        let vectors = self.clip.embed(&pixels).map_err(|e| BatchError::Fatal(e.to_string()))?;
        let mut vectors = vectors.into_iter();
        let outcomes = decoded.into_iter().zip(batch).map(|(decoded, record)| match decoded {
            Err(rejection) => Ok(Outcome::Rejected(rejection)),
            Ok(decoded) => {
                let vector = vectors
                    .next()
                    .ok_or_else(|| BatchError::Fatal("the encoder returned too few vectors".into()))?;
                Ok(self.output(record, &decoded, vector))
            }
        });
        outcomes.collect()
    }
}
