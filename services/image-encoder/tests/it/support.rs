//! Pictures, records, encoders, and servers for the pictures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use unprompt_image_encoder::claim_check::ClaimCheck;
use unprompt_image_encoder::{DEFAULTS, EncoderError, EncoderFolder, ImageEncoder, claim_check};
use unprompt_models::encoder::VisionSettings;
use unprompt_models::picture::Limits;
use unprompt_schemas::cloudevents::ImageEvent;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::ImageEmbedding;
use unprompt_schemas::topics::Topic;
use unprompt_stream::config::{Invalid, Sections, load_with};
use unprompt_stream::{BatchError, InputRecord, Outcome, Rejection, Stage};

/// The image-encoder's sections.
#[derive(Deserialize)]
struct Config {
    images: Limits,
    claim_check: claim_check::Settings,
}

impl Sections for Config {
    fn check(&self) -> Result<(), Invalid> {
        self.claim_check.check()
    }
}

pub fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-world/checkpoints/clip")
}

pub fn encoder() -> ImageEncoder {
    load(&[(clip(), None)]).unwrap()
}

/// Loads encoders given by their folders and sides.
pub fn load(encoders: &[(PathBuf, Option<usize>)]) -> Result<ImageEncoder, EncoderError> {
    let encoder = |(folder, side): &(PathBuf, Option<usize>)| EncoderFolder {
        folder: folder.clone(),
        settings: VisionSettings { side: *side, ..VisionSettings::default() },
    };
    let encoders: Vec<_> = encoders.iter().map(encoder).collect();
    ImageEncoder::load(&encoders, Limits::default(), Codec::single_object())
}

pub fn png(shade: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(50, 70, |x, y| image::Rgb([shade, (x * 5) as u8, (y * 3) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub fn record(offset: i64, value: Option<Vec<u8>>, event: ImageEvent) -> InputRecord {
    let mut headers = event.to_headers();
    headers.push(("correlation-id".into(), b"c-7".to_vec()));
    InputRecord {
        topic: Topic::Images,
        topic_name: "test.images.v1".into(),
        partition: 2,
        offset,
        timestamp_ms: 1_000 + offset,
        key: Some(b"key".to_vec()),
        value,
        headers,
    }
}

pub fn embedding(outcome: &Outcome) -> ImageEmbedding {
    match outcome {
        Outcome::Outputs(outputs) => {
            Codec::single_object().decode(outputs[0].value.as_deref().unwrap()).unwrap()
        }
        Outcome::Rejected(rejection) => panic!("rejected: {rejection:?}"),
    }
}

/// A record that holds the URI of a picture.
pub fn claim(offset: i64, uri: &str) -> InputRecord {
    let event = ImageEvent { content_type: Some("text/uri-list".into()), ..ImageEvent::default() };
    record(offset, Some(format!("{uri}\r\n").into_bytes()), event)
}

pub fn rejection(outcome: &Outcome) -> &Rejection {
    match outcome {
        Outcome::Rejected(rejection) => rejection,
        Outcome::Outputs(_) => panic!("taken"),
    }
}

/// An encoder that fetches, and its runtime.
#[derive(Debug)]
pub struct Fetching {
    pub runtime: Runtime,
    encoder: Option<ImageEncoder>,
}

impl Fetching {
    pub fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, encoder: None }
    }

    /// Serves `app` on its own port.
    pub fn serve(&self, app: Router) -> SocketAddr {
        let listener = self.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        self.runtime.spawn(async move { axum::serve(listener, app).await });
        address
    }

    /// Applies `[claim_check]` as in a configuration file, on top of quick retries and permission
    /// for local addresses.
    pub fn configure(&mut self, claim_check: Value) {
        self.encoder = Some(self.encoder_of(claim_check).unwrap());
    }

    pub fn encoder_of(&self, claim_check: Value) -> Result<ImageEncoder, Box<dyn std::error::Error>> {
        let mut section = json!({
            "allow_private_addresses": true, "retry_initial_ms": 1, "retry_max_ms": 2, "attempts": 3, "timeout_ms": 20_000,
        });
        section.as_object_mut().unwrap().extend(claim_check.as_object().unwrap().clone());
        let config: Config = load_with(DEFAULTS, None, [], json!({"claim_check": section}))?;
        let claim_check =
            ClaimCheck::new(&config.claim_check, config.images.max_bytes, self.runtime.handle().clone())?;
        Ok(encoder().with_claim_check(claim_check))
    }

    pub fn process(&mut self, batch: &[InputRecord]) -> Result<Vec<Outcome>, BatchError> {
        self.encoder.as_mut().expect("it is configured").process(batch)
    }

    /// The outcome of the picture at `uri`, alone in a batch.
    pub fn fetch(&mut self, uri: &str) -> Outcome {
        self.process(&[claim(0, uri)]).unwrap().remove(0)
    }

    /// The code and the reason of the rejection of the picture at `uri`.
    pub fn refuse(&mut self, uri: &str) -> (&'static str, String) {
        let outcome = self.fetch(uri);
        let Rejection { code, reason } = rejection(&outcome);
        (code, reason.clone())
    }

    /// The reason why the batch with the picture at `uri` has to wait.
    pub fn wait(&mut self, uri: &str) -> String {
        match self.process(&[claim(0, uri)]) {
            Err(BatchError::Transient(reason)) => reason,
            other => panic!("{uri} did not make the batch wait: {other:?}"),
        }
    }
}

/// A counter of requests.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    /// Adds one and returns the previous count.
    pub fn one(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
