//! The image-encoder: consumes encoded pictures, or URIs of them, and produces their vectors, one
//! per encoder.
//!
//! It knows images.v1, image-embeddings.v1, the encoders' folders and the places that pictures may
//! be fetched from; it must not know prompts or the index.

mod budget;
pub mod claim_check;
mod decoder;
mod error;

use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use unprompt_models::encoder::{Pixels, VisionSettings, VisionTower};
use unprompt_models::picture::Limits;
use unprompt_models::settings::ModelSettings;
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::{self, ImageEvent};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::{ImageEmbedding, NamedVector};
use unprompt_schemas::topics::Topic;
use unprompt_stream::config::Invalid;
use unprompt_stream::service::prepare_schema;
use unprompt_stream::{
    BatchError, InputRecord, Needs, Outcome, OutputRecord, Parsed, ParsedBatch, Refusal, Rejection, Service,
    Stage, StageWiring,
};

use claim_check::{ClaimCheck, Redeemed};
use decoder::{Decoder, Views};

pub use error::EncoderError;

/// The service descriptor: its name, topics and needs.
pub const SERVICE: Service = Service {
    needs: Needs { index: false, heads: false, schema: Some(prepare_schema::<ImageEmbedding>) },
    ..Service::new("image-encoder", &[Topic::Images], &[Topic::ImageEmbeddings])
};

/// The default configuration, as TOML with comments for users.
pub const DEFAULTS: &str = include_str!("default.toml");

/// The networks that encode pictures, and the limits on pictures.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub encoders: Vec<EncoderFolder>,
    /// `[images]`
    pub images: Limits,
    /// `[claim_check]`
    pub claim_check: claim_check::Settings,
}

/// Refuses a value of `[images]` that cannot be used.
///
/// # Errors
/// The key, and the values it allows.
pub fn check_images(images: &Limits) -> Result<(), Invalid> {
    Invalid::unless_in("images.max_bytes", images.max_bytes, 1.., "1 or more")?;
    Invalid::unless_in("images.max_pixels", images.max_pixels, 1.., "1 or more")
}

/// Checks the image encoders of the section `[models]`.
///
/// # Errors
/// The key, and the values it allows.
pub fn check_models(models: &ModelSettings) -> Result<(), Invalid> {
    let check = |key: &str, side: Option<usize>| Invalid::unless_in(key, side.unwrap_or(1), 1.., "1 or more");
    check("models.clip_side", models.clip_side)?;
    models.encoders.iter().try_for_each(|encoder| check("models.encoders", encoder.side))
}

/// Loads the stage.
///
/// # Errors
/// The same as [`ImageEncoder::load`] and [`ClaimCheck::new`].
pub fn build(settings: &Settings, wiring: &StageWiring) -> Result<ImageEncoder, EncoderError> {
    let Settings { encoders, images, claim_check } = settings;
    let claim_check = ClaimCheck::new(claim_check, images.max_bytes, wiring.runtime.clone())?;
    Ok(ImageEncoder::load(encoders, *images, wiring.codec.clone())?.with_claim_check(claim_check))
}

/// Encodes pictures; see [`ImageEncoder::load`].
#[derive(Debug)]
pub struct ImageEncoder {
    decoder: Decoder,
    claim_check: Option<ClaimCheck>,
    codec: Codec,
}

/// A record's headers and value.
struct Content<'a> {
    event: ImageEvent,
    value: &'a [u8],
}

/// A decoded and preprocessed picture, with the ids from its headers.
struct Decoded {
    image_id: Uuid,
    prompt_id: Option<Uuid>,
    views: Views,
}

/// An encoder's folder and its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderFolder {
    pub folder: PathBuf,
    pub settings: VisionSettings,
}

impl ImageEncoder {
    /// Loads the encoders. Without [`Self::with_claim_check`] it takes only pictures that are in
    /// their records.
    ///
    /// # Errors
    /// A folder that cannot be loaded, or two encoders whose vectors would have the same name.
    pub fn load(encoders: &[EncoderFolder], limits: Limits, codec: Codec) -> Result<Self, EncoderError> {
        let load = |encoder: &EncoderFolder| VisionTower::load(&encoder.folder, &encoder.settings);
        let towers = encoders.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        for (at, tower) in towers.iter().enumerate() {
            if towers[..at].iter().any(|other| other.vector_name() == tower.vector_name()) {
                return Err(EncoderError::Twice(tower.vector_name().to_owned()));
            }
        }
        Ok(Self { decoder: Decoder::new(towers, limits), claim_check: None, codec })
    }

    /// Also fetches the pictures that `text/uri-list` records name.
    #[must_use]
    pub fn with_claim_check(self, claim_check: ClaimCheck) -> Self {
        Self { claim_check: Some(claim_check), ..self }
    }

    /// Fetches the batch's pictures that are given as URIs, in the order of their records.
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

    /// Decodes a picture that is in the record itself.
    fn decode_inline(&self, content: &Result<Content<'_>, Rejection>) -> Option<Redeemed> {
        let content = content.as_ref().ok().filter(|content| !content.is_claim())?;
        Some(self.decoder.decode(content.value, self.decoder.limits.max_bytes))
    }

    /// Decodes the batch. Fetching comes first: if it has to be retried, no other work is wasted.
    fn decode(&mut self, batch: &[InputRecord]) -> Result<Vec<Result<Decoded, Rejection>>, BatchError> {
        let contents: Vec<_> = batch.iter().map(Content::of).collect();
        let mut redeemed = self.redeem(batch, &contents)?.into_iter();
        let inline: Vec<_> = contents.par_iter().map(|content| self.decode_inline(content)).collect();
        let mut pictures = Vec::with_capacity(batch.len());
        for ((content, inline), record) in contents.into_iter().zip(inline).zip(batch) {
            pictures.push(match content {
                Err(rejection) => Err(rejection),
                Ok(content) => {
                    let views = inline.or_else(|| redeemed.next()).ok_or_else(lost_claim)?;
                    views.map(|views| content.decoded(record, views))
                }
            });
        }
        Ok(pictures)
    }

    /// Encodes the pictures; returns one vector per encoder for each.
    fn embed(&self, pictures: &[Decoded]) -> Result<Vec<Vec<NamedVector>>, BatchError> {
        let mut vectors: Vec<Vec<NamedVector>> = pictures.iter().map(|_| Vec::new()).collect();
        for (at, tower) in self.decoder.towers.iter().enumerate() {
            let pixels: Vec<&Pixels> = pictures.iter().filter_map(|picture| picture.views.get(at)).collect();
            let embedded = tower.embed(&pixels).map_err(|error| BatchError::Fatal(error.to_string()))?;
            if embedded.len() != pictures.len() {
                let (name, got, wanted) = (tower.vector_name(), embedded.len(), pictures.len());
                return Err(BatchError::Fatal(format!("{name} gave {got} vectors for {wanted} pictures")));
            }
            for (of_picture, values) in vectors.iter_mut().zip(embedded) {
                of_picture.push(NamedVector { model: tower.vector_name().to_owned(), values });
            }
        }
        Ok(vectors)
    }

    fn output(
        &self,
        record: &InputRecord,
        decoded: &Decoded,
        vectors: Vec<NamedVector>,
    ) -> Result<Vec<OutputRecord>, Refusal> {
        let embedding = ImageEmbedding {
            image_id: decoded.image_id,
            prompt_id: decoded.prompt_id,
            vectors,
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

    fn decoded(self, record: &InputRecord, views: Views) -> Decoded {
        let image_id = self.event.image_id(&record.topic_name, record.partition, record.offset);
        Decoded { image_id, prompt_id: self.event.prompt_id, views }
    }
}

fn lost_claim() -> BatchError {
    BatchError::Fatal("a picture's URI has no outcome: a programming error".into())
}

fn position(record: &InputRecord) -> claim_check::Position {
    (record.topic_name.clone(), record.partition, record.offset)
}

impl Stage for ImageEncoder {
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let decoded = self.decode(batch)?.into_iter().map(|decoded| Ok(Parsed::Input(decoded?)));
        let parsed = ParsedBatch::of(batch, decoded)?;
        let vectors = self.embed(parsed.inputs())?;
        parsed.outcomes(vectors, |record, decoded, vectors| self.output(record, &decoded, vectors))
    }
}
