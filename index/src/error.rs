//! The errors of the prompt index, and which of them are worth a retry.

use std::path::PathBuf;

use qdrant_client::QdrantError;
use tonic::Code;
use uuid::Uuid;

/// Every failure of this crate. [`IndexError::is_transient`] tells a stage whether to retry the
/// batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The address is not a valid URL.
    #[error("{url:?} is not an address of Qdrant's gRPC port; give one such as http://127.0.0.1:6334")]
    InvalidUrl { url: String },
    /// Nothing answers at the address.
    #[error(
        "no Qdrant answers at {url} ({reason}); start it, or give its gRPC address (port 6334) with --qdrant"
    )]
    Unreachable { url: String, reason: String },
    /// The server refused or failed a request.
    #[error("qdrant could not {operation}: {code:?}: {message}")]
    Server { operation: &'static str, code: Code, message: String },
    /// The request could not be made or its answer could not be read.
    #[error("qdrant's client could not {operation}: {reason}")]
    Client { operation: &'static str, reason: String },
    /// A write was accepted but not confirmed: it may or may not be applied. Writing it again is
    /// harmless.
    #[error("qdrant took the write but did not confirm it (status {status}); write it again")]
    NotAcknowledged { status: String },
    /// There is no collection behind the alias.
    #[error(
        "there is no collection behind the alias {alias:?}; start the indexer first, it creates the collection"
    )]
    NoCollection { alias: String },
    /// The alias points to another encoder's collection.
    #[error(
        "the alias {alias:?} serves the collection {found:?}, not {wanted:?}: its vectors come from another image \
         encoder. Configure that encoder again, or fill {wanted:?} with PromptIndex::beside and switch the alias to it"
    )]
    OtherEncoder { alias: String, found: String, wanted: String },
    /// The collection of that name was made for other vectors.
    #[error(
        "the collection {collection:?} does not fit: {detail}. Delete the collection and index the prompts again"
    )]
    OtherShape { collection: String, detail: String },
    /// The server could not build the graph.
    #[error(
        "the graph of {collection:?} could not be built: {reason}. Nothing is lost, and searches are correct but slow; \
         fix the cause (disk space, memory) and run `unprompt index optimize`"
    )]
    NotOptimised { collection: String, reason: String },
    /// A snapshot that cannot be used or cannot be written.
    #[error("the snapshot {} {reason}", path.display())]
    Snapshot { path: PathBuf, reason: String },
    /// A point that cannot be written.
    #[error("the prompt {prompt_id} cannot be indexed: {reason}")]
    InvalidPoint { prompt_id: Uuid, reason: String },
    /// A query that cannot be answered.
    #[error("the query cannot be answered: {reason}")]
    InvalidQuery { reason: String },
    /// The query's vector could not be computed; the query is not to blame.
    #[error("the query's vector cannot be computed: {reason}")]
    Encoder { reason: String },
    /// A point of the collection that this version cannot read.
    #[error(
        "the point {id} of the collection is not a prompt: {reason}. Delete it, or use a collection of its own for it"
    )]
    ForeignPoint { id: String, reason: String },
}

impl IndexError {
    /// Returns whether the same request may succeed later without any intervention.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NotAcknowledged { .. } => true,
            Self::Server { code, .. } => matches!(
                code,
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::ResourceExhausted
                    | Code::Unknown
                    | Code::Internal
            ),
            _ => false,
        }
    }

    /// Returns whether the request or its answer is larger than a message may be.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Server { code: Code::OutOfRange, message, .. } if message.contains("too large"))
    }

    /// Returns whether a collection could not be created because it exists. The code depends on
    /// Qdrant's version.
    pub(crate) fn is_existing_collection(&self) -> bool {
        match self {
            Self::Server { code: Code::AlreadyExists, .. } => true,
            Self::Server { code: Code::InvalidArgument, message, .. } => message.contains("exist"),
            _ => false,
        }
    }

    pub(crate) fn from_client(operation: &'static str, error: QdrantError) -> Self {
        match error {
            QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
                Self::Server { operation, code: status.code(), message: status.message().to_owned() }
            }
            other => Self::Client { operation, reason: other.to_string() },
        }
    }
}
