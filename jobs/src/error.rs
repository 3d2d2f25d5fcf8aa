//! The one error type of the crate. Each variant says what to do next.

use std::io;
use std::path::PathBuf;

use unprompt_corpus::CorpusError;
use unprompt_index::IndexError;
use unprompt_model_store::StoreError;
use unprompt_models::ModelError;
use unprompt_schemas::SchemaError;
use unprompt_stream::StreamError;

/// An error of any type from a library.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The errors of a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    #[error("stopped after {rows} prompts; {advice}")]
    Stopped {
        /// The acknowledged prompts, including those of earlier runs.
        rows: u64,
        advice: &'static str,
    },
    #[error("reading ended early, after {rows} prompts: {reason}")]
    ReadingEnded { rows: u64, reason: CorpusError },
    #[error("the thread that {doing} ended too early; the log above says why")]
    ThreadEnded { doing: &'static str },

    #[error("[models] {key}: {reason}")]
    ModelName { key: &'static str, reason: Box<StoreError> },
    #[error("[models] {key}: {model} is for {fits}; name it there, or choose a model for {key}")]
    ModelPart { key: &'static str, model: String, fits: &'static str },
    #[error(
        "no [models] {name} is configured, and the repository's tiny model was not found from {}; \
         configure one, or run from the repository",
        from.display()
    )]
    NoTinyModel { name: &'static str, from: PathBuf },
    #[error("tokens cannot be counted without MiniLM: {0}")]
    TokenCounter(Box<JobError>),

    #[error("pictures cannot be stored in {}: {reason}; make it writable or choose another --out", path.display())]
    PictureFolder { path: PathBuf, reason: io::Error },
    #[error("{} accepts no more pictures: {reason}; free some space and repeat the command", path.display())]
    PictureNotWritten { path: PathBuf, reason: io::Error },
    #[error("{} is not a file of pictures: {reason}; move it away or choose another --out", path.display())]
    NotPictures { path: PathBuf, reason: AnyError },
    #[error(
        "{} cannot be written: {reason}; the pictures are kept in {}: free some space and repeat the command",
        path.display(), waiting.display()
    )]
    NotPacked { path: PathBuf, waiting: PathBuf, reason: AnyError },
    #[error("{} cannot be removed: {reason}; remove it by hand", path.display())]
    NotRemoved { path: PathBuf, reason: io::Error },

    #[error("stopped while the index was not accepting prompts ({reason}); {advice}")]
    StoppedWaiting { reason: IndexError, advice: &'static str },
    #[error("stopped while the graph was built; {advice}")]
    GraphStopped { advice: &'static str },

    #[error("{} cannot be read: {reason}; check the name and that it is readable", path.display())]
    Unreadable { path: PathBuf, reason: io::Error },
    #[error("{path}:{line}: {reason}; a line is {{\"image_id\": …, \"text\": …}}")]
    Truth { path: String, line: usize, reason: serde_json::Error },
    #[error("none of the {pictures} pictures has a prediction yet; publish them, or wait")]
    NoPredictions { pictures: usize },
    #[error(
        "image-embeddings.v1 has a vector of {encoder} for none of the {pictures} pictures; publish them first"
    )]
    NoEmbeddings { encoder: String, pictures: usize },
    #[error("the index has no prompts; import some")]
    EmptyIndex,
    #[error("the index does not name its encoder; fill it with the indexer or an index build")]
    UnknownEncoder,

    #[error(
        "the index holds vectors of {theirs}, and [models] {key} is {ours}: configure the one it was filled with"
    )]
    OtherModel { key: &'static str, ours: String, theirs: String },
    /// The message describes the form of a search.
    #[error("{0}")]
    Request(String),
    #[error("stopped after {searches} searches; repeat the lines after them")]
    SearchesStopped { searches: u64 },
    #[error("{failed} of {searches} searches failed; their lines say why")]
    SearchesFailed { failed: u64, searches: u64 },

    #[error(transparent)]
    Corpus(#[from] CorpusError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Boxed, so that results stay small.
    #[error(transparent)]
    Store(Box<StoreError>),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl JobError {
    /// Returns the same error with the number of prompts that are acknowledged by now.
    pub(crate) fn at(self, acknowledged: u64) -> Self {
        match self {
            Self::Stopped { advice, .. } => Self::Stopped { rows: acknowledged, advice },
            Self::ReadingEnded { reason, .. } => Self::ReadingEnded { rows: acknowledged, reason },
            other => other,
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Above this size clippy asks for a box.
    #[test]
    fn a_job_error_stays_below_128_bytes() {
        assert!(size_of::<JobError>() < 128, "{}", size_of::<JobError>());
    }
}
