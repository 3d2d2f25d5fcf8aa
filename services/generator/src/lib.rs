//! The generator: consumes prompts with seeds and produces the pictures that Stable Diffusion 2
//! draws for them.
//!
//! It knows prompts.v1, images.v1 and a diffusers folder; it must not know encoders or the index.

mod settings;

use std::io::Cursor;
use std::path::Path;

use unprompt_models::ModelError;
use unprompt_models::stable_diffusion::{
    GenerationError, GenerationParams, GenerationRequest, Precision, StableDiffusion,
};
use unprompt_schemas::Uuid;
use unprompt_schemas::cloudevents::{self, Headers, ImageEvent};
use unprompt_schemas::codec::Codec;
use unprompt_schemas::identity::{generated_image_id, prompt_id};
use unprompt_schemas::records::Prompt;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{
    BatchError, InputRecord, Outcome, OutputRecord, Parsed, ParsedBatch, Refusal, Rejection, Service, Stage,
    StageWiring,
};

pub use settings::{GeneratorSection, Settings};

/// The service descriptor: its name, topics and needs.
///
/// A picture's record gets the time of drawing, not the time of its prompt: with the time of an old
/// prompt it would be old from the start and soon deleted.
pub const SERVICE: Service =
    Service { keeps_time: false, ..Service::new("generator", &[Topic::Prompts], &[Topic::Images]) };

/// The default configuration, as TOML with comments for users.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Loads the stage.
///
/// # Errors
/// A model folder that cannot be loaded.
pub fn build(settings: &Settings, wiring: &StageWiring) -> Result<Generator, ModelError> {
    Generator::open(settings, wiring.codec.clone())
}

/// Draws pictures; see [`Generator::load`].
#[derive(Debug)]
pub struct Generator {
    model: StableDiffusion,
    params: GenerationParams,
    /// Pictures per pass of the network.
    batch: usize,
    /// The maximum number of pictures of one record.
    max_seeds: usize,
    codec: Codec,
}

/// The maximum number of pictures of one record, unless [`Generator::max_seeds`] sets another.
const MAX_SEEDS: usize = 64;

impl Generator {
    /// Loads the model that `settings` name.
    ///
    /// # Errors
    /// A model folder that cannot be loaded.
    pub fn open(settings: &Settings, codec: Codec) -> Result<Self, ModelError> {
        let section = &settings.section;
        let this = Self::load(&settings.model, section.precision, section.params(), section.batch, codec)?;
        Ok(this.max_seeds(section.max_seeds))
    }

    /// Loads Stable Diffusion 2 from a folder in the diffusers layout.
    pub fn load(
        folder: &Path,
        precision: Precision,
        params: GenerationParams,
        batch: usize,
        codec: Codec,
    ) -> Result<Self, ModelError> {
        let model = StableDiffusion::load_in(folder, precision)?;
        Ok(Self { model, params, batch: batch.max(1), max_seeds: MAX_SEEDS, codec })
    }

    /// Sets how many pictures one record may ask for.
    #[must_use]
    pub fn max_seeds(self, max_seeds: usize) -> Self {
        Self { max_seeds, ..self }
    }

    /// `name@revision` of the model.
    pub fn model(&self) -> String {
        self.model.revision().to_string()
    }

    /// The generation parameters as they enter into the ids of pictures.
    pub fn identity(&self) -> String {
        self.model.identity(&self.params)
    }

    /// The device that draws: `processor` or `GPU`.
    pub fn device(&self) -> &'static str {
        self.model.device()
    }

    /// The id of the picture of a prompt and a seed.
    pub fn image_id(&self, text: &str, seed: i64) -> Uuid {
        generated_image_id(prompt_id(text), &self.model(), seed as u64, &self.identity())
    }

    /// Draws one picture per seed for each prompt, or returns why a prompt has none.
    pub fn draw(&self, prompts: &[Prompt]) -> Result<Vec<Result<Vec<Picture>, Rejection>>, ModelError> {
        let requests: Vec<_> = prompts.iter().flat_map(requests_of).collect();
        let mut pngs = self.pngs(&requests)?.into_iter();
        let drawn = prompts.iter().map(|prompt| {
            // Takes all PNGs of a prompt, even if the first one failed.
            let pngs: Vec<_> = pngs.by_ref().take(prompt.seeds.len()).collect();
            let seeds = prompt.seeds.iter();
            pngs.into_iter().zip(seeds).map(|(png, &seed)| Ok(self.picture(prompt, seed, png?))).collect()
        });
        Ok(drawn.collect())
    }

    /// Parses a record; a deleted prompt has no picture.
    fn parse(&self, record: &InputRecord) -> Result<Parsed<Prompt>, Refusal> {
        let Some(value) = record.value.as_deref() else { return Ok(Parsed::Outputs(Vec::new())) };
        let prompt = Prompt::from_record(value, &self.codec)?;
        match (prompt.seeds.len(), self.max_seeds) {
            (0, _) => Ok(Parsed::Outputs(Vec::new())),
            (seeds, most) if seeds > most => Err(Refusal::record(
                "too-many-seeds",
                format!(
                    "the prompt has {seeds} seeds, and a record may have at most {most}: publish it several \
                     times with other seeds, or raise [generator] max_seeds"
                ),
            )),
            _ => Ok(Parsed::Input(prompt)),
        }
    }

    /// Parses the first records, until there is work for one pass of the network.
    fn first_pass<'a>(&self, batch: &'a [InputRecord]) -> Result<ParsedBatch<'a, Prompt>, BatchError> {
        let (mut parsed, mut pictures) = (Vec::new(), 0);
        for record in batch {
            let one = self.parse(record);
            pictures += match &one {
                Ok(Parsed::Input(prompt)) => prompt.seeds.len(),
                _ => 0,
            };
            parsed.push(one);
            if pictures >= self.batch {
                break;
            }
        }
        ParsedBatch::of(&batch[..parsed.len()], parsed)
    }

    /// Draws the PNG of every request, in order, `batch` at a time.
    fn pngs(&self, requests: &[GenerationRequest]) -> Result<Vec<Result<Vec<u8>, Rejection>>, ModelError> {
        let mut pictures = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(self.batch) {
            pictures.extend(self.model.generate(chunk, &self.params)?.into_iter().map(as_png));
        }
        match pictures.len() == requests.len() {
            true => Ok(pictures),
            // A prompt must never get another prompt's picture.
            false => Err(ModelError::Parameters(format!(
                "{} pictures were drawn, but {} were requested",
                pictures.len(),
                requests.len()
            ))),
        }
    }

    fn picture(&self, prompt: &Prompt, seed: i64, png: Vec<u8>) -> Picture {
        Picture {
            image_id: self.image_id(&prompt.text, seed),
            prompt_id: prompt_id(&prompt.text),
            prompt: prompt.text.clone(),
            seed,
            model: self.model(),
            parameters: self.identity(),
            png,
            time_ms: None,
        }
    }
}

/// A drawn picture.
#[derive(Clone, Debug)]
pub struct Picture {
    pub image_id: Uuid,
    pub prompt_id: Uuid,
    pub prompt: String,
    pub seed: i64,
    /// `name@revision` of the model.
    pub model: String,
    /// The generation parameters, as in [`Generator::identity`].
    pub parameters: String,
    pub png: Vec<u8>,
    /// When its prompt was published, in milliseconds since the epoch; `None` if it was not.
    pub time_ms: Option<i64>,
}

impl Picture {
    /// The record on images.v1.
    pub fn record(&self) -> OutputRecord {
        let event = ImageEvent {
            id: Some(self.image_id.to_string()),
            source: Some(format!("unprompt/generator/{}", self.model)),
            event_type: Some(cloudevents::names::TYPE_IMAGE_GENERATED.into()),
            time_ms: self.time_ms,
            content_type: Some("image/png".into()),
            prompt_id: Some(self.prompt_id),
            seed: Some(self.seed),
            ..ImageEvent::default()
        };
        OutputRecord {
            topic: Topic::Images,
            key: Some(self.prompt_id.to_string().into_bytes()),
            value: Some(self.png.clone()),
            headers: event.to_headers(),
        }
    }
}

/// Adds the headers set by the prompt's producer, which are forwarded with the picture.
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

/// A pass of Stable Diffusion 2 takes seconds on a GPU and minutes on a processor. So that pictures
/// are published as they are drawn, only the first records are processed: as many as fill a pass.
impl Stage for Generator {
    fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        let parsed = self.first_pass(batch)?;
        let drawn = self.draw(parsed.inputs()).map_err(|error| BatchError::Fatal(error.to_string()))?;
        parsed.outcomes(drawn, |record, _, drawn| {
            Ok(drawn?.into_iter().map(|picture| output(record, picture)).collect())
        })
    }
}

fn output(record: &InputRecord, picture: Picture) -> OutputRecord {
    let published = Picture { time_ms: Some(record.timestamp_ms), ..picture }.record();
    OutputRecord { headers: with_forwarded(published.headers, record), ..published }
}
