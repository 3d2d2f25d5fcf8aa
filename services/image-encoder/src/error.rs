//! Errors while the encoder is set up; each message says what to do next.

use unprompt_models::ModelError;

use crate::claim_check::BadUri;

/// The errors of this crate. A problem with one record is a rejection, not an error.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    #[error(transparent)]
    Model(#[from] ModelError),

    #[error("two image encoders are {0}: name each in [models] once, or at different sides")]
    Twice(String),

    #[error(
        "allow in [claim_check] has {entry:?}, which is not a prefix of URIs: {reason}. Write it like https://host/pictures/, \
         s3://bucket/pictures/ or file:///data/pictures/"
    )]
    Allow { entry: String, reason: BadUri },

    #[error(
        "an HTTP client cannot be created: {0}; check that the system's certificates are installed (ca-certificates)"
    )]
    HttpClient(String),

    #[error("a client for bucket {bucket} cannot be created: {reason}; check [claim_check.s3]")]
    S3Client { bucket: String, reason: String },
}
