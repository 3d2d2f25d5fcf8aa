//! The generator: prompts with seeds in, the pictures Stable Diffusion 2 draws of them out.
//!
//! It knows prompts.v1, images.v1 and a diffusers folder; it must not know encoders or the index.

use std::io::Cursor;
use std::path::Path;

use unprompt_models::stable_diffusion::{
    GenerationError, GenerationParams, GenerationRequest, Precision, StableDiffusion,
};
use unprompt_schemas::cloudevents::{self, Headers, ImageEvent};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::{generated_image_id, prompt_id};
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{BatchError, InputRecord, Outcome, OutputRecord, Refusal, Rejection, Stage};

/// Draws pictures; see [`Generator::load`].
#[derive(Debug)]
pub struct Generator {
    model: StableDiffusion,
    params: GenerationParams,
    /// Pictures in one pass of the network.
    batch: usize,
    codec: Codec,
}

impl Generator {
    /// Loads Stable Diffusion 2 from a folder in the diffusers layout.
    pub fn load(
        folder: &Path,
        precision: Precision,
        params: GenerationParams,
        batch: usize,
        codec: Codec,
    ) -> Result<Self, unprompt_models::ModelError> {
        Ok(Self { model: StableDiffusion::load_in(folder, precision)?, params, batch: batch.max(1), codec })
    }

    fn parse(&self, record: &InputRecord) -> Result<Option<Prompt>, Refusal> {
        let Some(value) = record.value.as_deref() else { return Ok(None) };
        Ok(Some(Prompt::from_record(value, &self.codec)?))
    }

    /// The PNG of every request, in order, `batch` at a time.
    fn draw(&self, requests: &[GenerationRequest]) -> Result<Vec<Result<Vec<u8>, Rejection>>, BatchError> {
        let mut pictures = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(self.batch) {
            let drawn =
                self.model.generate(chunk, &self.params).map_err(|e| BatchError::Fatal(e.to_string()))?;
            pictures.extend(drawn.into_iter().map(as_png));
        }
        Ok(pictures)
    }

    fn output(&self, record: &InputRecord, prompt: &Prompt, seed: i64, png: Vec<u8>) -> OutputRecord {
        let prompt_id = prompt_id(&prompt.text);
        let revision = self.model.revision().to_string();
        let made_so = self.model.identity(&self.params);
        let image_id = generated_image_id(prompt_id, &revision, seed as u64, &made_so);
        let event = ImageEvent {
            id: Some(image_id.to_string()),
            source: Some(format!("unprompt/generator/{revision}")),
            event_type: Some("unprompt.image.generated".into()),
            time_ms: Some(record.timestamp_ms),
            content_type: Some("image/png".into()),
            prompt_id: Some(prompt_id),
            seed: Some(seed),
            ..ImageEvent::default()
        };
        OutputRecord {
            topic: Topic::Images,
            key: Some(prompt_id.to_string().into_bytes()),
            value: Some(png),
            headers: with_forwarded(event.to_headers(), record),
        }
    }
}

/// What the prompt's producer set travels on with the picture.
fn with_forwarded(mut headers: Headers, record: &InputRecord) -> Headers {
    headers.extend(cloudevents::forwarded(&record.headers));
    headers
}

fn as_png(drawn: Result<image::RgbImage, GenerationError>) -> Result<Vec<u8>, Rejection> {
    let picture = drawn.map_err(|e| Rejection::new("generation", e.to_string()))?;
    let mut png = Cursor::new(Vec::new());
    picture
        .write_to(&mut png, image::ImageFormat::Png)
        .map_err(|e| Rejection::new("png", format!("the drawn picture could not be encoded: {e}")))?;
    Ok(png.into_inner())
}

fn requests_of(prompt: &Prompt) -> impl Iterator<Item = GenerationRequest> + '_ {
    prompt.seeds.iter().map(|&seed| GenerationRequest { prompt: prompt.text.clone(), seed: seed as u64 })
}

impl Stage for Generator {
    fn name(&self) -> &'static str {
        "generator"
    }

    fn inputs(&self) -> &'static [Topic] {
        &[Topic::Prompts]
    }

    fn outputs(&self) -> &'static [Topic] {
        &[Topic::Images]
    }

    /// A picture comes into being now, however old its prompt is: it must not be old when it is born, and deleted.
    fn keeps_time(&self) -> bool {
        false
    }

    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let parsed = Refusal::part(batch.iter().map(|record| self.parse(record)))?;
        let prompts = parsed.iter().filter_map(|p| p.as_ref().ok()?.as_ref());
        let requests: Vec<_> = prompts.flat_map(requests_of).collect();
        let mut pictures = self.draw(&requests)?.into_iter();
        let outcomes = parsed.into_iter().zip(batch).map(|(parsed, record)| match parsed {
            Err(rejection) => Outcome::Rejected(rejection),
            Ok(None) => Outcome::Outputs(Vec::new()),
            Ok(Some(prompt)) => {
                self.outcome(record, &prompt, pictures.by_ref().take(prompt.seeds.len()).collect())
            }
        });
        Ok(outcomes.collect())
    }
}

impl Generator {
    fn outcome(
        &self,
        record: &InputRecord,
        prompt: &Prompt,
        drawn: Vec<Result<Vec<u8>, Rejection>>,
    ) -> Outcome {
        let outputs: Result<Vec<_>, Rejection> = drawn
            .into_iter()
            .zip(&prompt.seeds)
            .map(|(png, &seed)| png.map(|png| self.output(record, prompt, seed, png)))
            .collect();
        match outputs {
            Ok(outputs) => Outcome::Outputs(outputs),
            Err(rejection) => Outcome::Rejected(rejection),
        }
    }
}
