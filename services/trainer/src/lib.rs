//! The trainer, a job: learns a head from the records of the topics and announces it on heads.v1.
//!
//! It joins image embeddings with prompt embeddings by prompt_id and fits a ridge regression whose
//! strength is chosen on validation prompts. On them it also learns the weight of the blend and the
//! calibration of expected_cosine. It writes the head with a card. A prompt's own point never
//! counts as a neighbour of its picture: the query excludes it.

mod card;
mod join;
mod validation;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use sha2::{Digest, Sha256};
use unprompt_index::{IndexError, PromptIndex};
use unprompt_models::ModelError;
use unprompt_models::calibration::Calibration;
use unprompt_models::head::{RidgeHead, Samples};
use unprompt_models::recipe::{Retrieval, TrainedHead};
use unprompt_schemas::SchemaError;
use unprompt_schemas::codec::Codec;
use unprompt_schemas::records::Head;
use unprompt_schemas::topics::Topic;
use unprompt_stream::{KafkaConfig, OutputRecord, Publisher, StreamError};

pub use join::{Joined, Pair, Skipped};
pub use validation::Validation;

/// The ridge strengths to try, from almost none to nearly the mean prompt.
const STRENGTHS: [f64; 13] = [1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0];

/// The settings of a training run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The head's name on heads.v1.
    pub name: String,
    /// The name of the picture vectors that the head reads: `name@revision` of the encoder, with
    /// `;side=` if the side is not the trained one.
    pub encoder: String,
    /// The length of those vectors.
    pub dims: usize,
    /// `name@revision` of the MiniLM whose vectors the head predicts.
    pub minilm: String,
    /// The share of the prompts kept for validation, 0 to 1.
    pub validation: f64,
    /// The folder for the head's file and card.
    pub out: PathBuf,
    /// The space to search for neighbours, as in the predictor.
    pub retrieval: Retrieval,
    /// Neighbours that are averaged, as in the predictor.
    pub k: usize,
    /// The time written into the record, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// Why no head was trained.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TrainError {
    #[error(
        "{pairs} pictures with a known prompt and a vector of {encoder} ({train} to train on, {validation} to validate on), at least {needed} of each are needed; publish prompts with seeds and wait until their pictures are encoded{}{skipped}",
        of_others(others)
    )]
    TooFewPairs {
        encoder: String,
        pairs: usize,
        train: usize,
        validation: usize,
        needed: usize,
        /// The encoders of the pictures without a vector of `encoder`.
        others: Vec<String>,
        skipped: Skipped,
    },
    #[error("the share kept for validation is {0}; choose one above 0 and below 1")]
    ValidationShare(f64),
    #[error("{path}: {error}; make the folder writable or choose another with --out")]
    Write { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// A trained and announced head.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The announced record.
    pub head: Head,
    /// The number of pictures in training.
    pub train: usize,
    /// The number of pictures in validation.
    pub validation: usize,
    pub skipped: Skipped,
}

/// Reads the topics to their ends, trains, writes the files and announces the head.
pub async fn train(
    kafka: &KafkaConfig,
    index: &PromptIndex,
    codec: &Codec,
    settings: &Settings,
) -> Result<Trained, TrainError> {
    if !(settings.validation > 0.0 && settings.validation < 1.0) {
        return Err(TrainError::ValidationShare(settings.validation));
    }
    let joined = join::read(kafka, codec, settings).await?;
    let (train, validation) = joined.split(settings.validation);
    check_enough(settings, &joined, &train, &validation)?;
    tracing::info!(train = train.len(), validation = validation.len(), skipped = ?joined.skipped, "pairs joined");
    let (ridge, strength) = fit(&train, &validation)?;
    let learned = Validation::learn(index, ridge, &validation, settings.retrieval, settings.k).await?;
    let mut metrics = learned.metrics();
    metrics.insert("ridge_strength".into(), strength);
    metrics.insert("train_pictures".into(), train.len() as f64);
    metrics.insert("validation_pictures".into(), validation.len() as f64);
    let head = write(settings, &learned.head, metrics)?;
    announce(kafka, codec, &head).await?;
    Ok(Trained { head, train: train.len(), validation: validation.len(), skipped: joined.skipped })
}

fn of_others(others: &[String]) -> String {
    match others {
        [] => String::new(),
        _ => format!(
            "; there are pictures with vectors of {} instead: set [models] clip and clip_side to theirs, or encode the pictures again",
            others.join(", ")
        ),
    }
}

fn check_enough(
    settings: &Settings,
    joined: &Joined,
    train: &[&Pair],
    validation: &[&Pair],
) -> Result<(), TrainError> {
    const NEEDED: usize = 20;
    if train.len() >= NEEDED && validation.len() >= NEEDED {
        return Ok(());
    }
    Err(TrainError::TooFewPairs {
        encoder: settings.encoder.clone(),
        others: joined.others.clone(),
        skipped: joined.skipped,
        pairs: joined.pairs.len(),
        train: train.len(),
        validation: validation.len(),
        needed: NEEDED,
    })
}

fn fit(train: &[&Pair], validation: &[&Pair]) -> Result<(RidgeHead, f64), TrainError> {
    Ok(RidgeHead::fit_with_validation(&samples(train), &samples(validation), &STRENGTHS)?)
}

fn samples<'a>(pairs: &[&'a Pair]) -> Samples<'a> {
    Samples {
        inputs: pairs.iter().map(|pair| pair.image.as_slice()).collect(),
        targets: pairs.iter().map(|pair| pair.prompt.as_slice()).collect(),
    }
}

/// Writes `<name>-<12 hex of sha256>.safetensors` and the card beside it; each appears complete or
/// not at all.
fn write(
    settings: &Settings,
    trained: &TrainedHead,
    metrics: BTreeMap<String, f64>,
) -> Result<Head, TrainError> {
    let bytes = trained.ridge.to_bytes(&settings.encoder, &settings.minilm)?;
    let sha256 = format!("{:x}", Sha256::digest(&bytes));
    let path = settings.out.join(format!("{}-{}.safetensors", settings.name, &sha256[..12]));
    let head = Head {
        name: settings.name.clone(),
        path: std::path::absolute(&path).unwrap_or(path.clone()).display().to_string(),
        sha256,
        encoder: settings.encoder.clone(),
        minilm: settings.minilm.clone(),
        metrics,
        blend_weight: f64::from(trained.blend_weight),
        calibration: trained.calibration.as_ref().map(Calibration::values).unwrap_or_default(),
        created_at_ms: settings.now_ms,
    };
    write_whole(&path, &bytes)?;
    write_whole(&path.with_extension("md"), card::text(&head).as_bytes())?;
    Ok(head)
}

/// Writes a file through a temporary one, so that a reader sees the old or the new content, never a
/// part.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(|error| TrainError::Write { path: path.to_owned(), error })
}

async fn announce(kafka: &KafkaConfig, codec: &Codec, head: &Head) -> Result<(), TrainError> {
    let publisher = Publisher::new(kafka)?;
    let record = OutputRecord {
        topic: Topic::Heads,
        key: Some(head.name.clone().into_bytes()),
        value: Some(codec.encode(&kafka.prefix.name(Topic::Heads), head)?),
        headers: Vec::new(),
    };
    publisher.publish(record).await?;
    Ok(())
}
