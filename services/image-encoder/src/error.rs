//! What can go wrong while the encoder is set up, each variant saying what to do next.

use unprompt_models::ModelError;

use crate::claim_check::BadUri;

/// Errors of this crate. What concerns one record is no error but a rejection.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    #[error(transparent)]
    Model(#[from] ModelError),

    #[error("two image encoders are {0}: name each in [models] once, or at different sides")]
    Twice(String),

    #[error(
        "allow in [claim_check] has {entry:?}, which is no prefix of URIs: {reason}. Write it like https://host/pictures/, \
         s3://bucket/pictures/ or file:///data/pictures/"
    )]
    Allow { entry: String, reason: BadUri },

    #[error(
        "no HTTP client could be made: {0}; check that the system's certificates are installed (ca-certificates)"
    )]
    HttpClient(String),

    #[error("no client of bucket {bucket} could be made: {reason}; check [claim_check.s3]")]
    S3Client { bucket: String, reason: String },
}
