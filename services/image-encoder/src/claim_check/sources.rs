//! Every kind of place that pictures are fetched from, behind one question.

use std::sync::Arc;

use tokio::time::Instant;

use super::failure::Failure;
use super::file::FileSource;
use super::http::HttpSource;
use super::location::{Location, Scheme};
use super::policy::Policy;
use super::s3::S3Source;
use super::settings::Settings;
use crate::EncoderError;

/// The allowed places and the clients for them.
#[derive(Debug)]
pub struct Sources {
    policy: Arc<Policy>,
    file: FileSource,
    /// Only where a prefix needs it: a client wants the system's certificates.
    http: Option<HttpSource>,
    s3: Option<S3Source>,
}

/// A picture, and where it was in the end: redirects may have led there.
#[derive(Debug)]
pub struct Found {
    pub bytes: Vec<u8>,
    pub at: Location,
}

impl Sources {
    pub fn new(settings: &Settings, max_bytes: usize) -> Result<Self, EncoderError> {
        let policy = Arc::new(Policy::new(&settings.allow)?);
        let has = |scheme| policy.places().iter().any(|place| place.scheme() == scheme);
        let http = || HttpSource::new(policy.clone(), settings.allow_private_addresses, max_bytes);
        let s3 = || S3Source::new(&settings.s3, &policy, max_bytes);
        Ok(Self {
            file: FileSource::new(max_bytes, settings.concurrency),
            http: has(Scheme::Http).then(http).transpose()?,
            s3: has(Scheme::S3).then(s3).transpose()?,
            policy,
        })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// An allowed picture.
    pub async fn fetch(&self, location: &Location, deadline: Instant) -> Result<Found, Failure> {
        let place = &self.policy.places()[self.policy.place_of(location)?];
        let here = |bytes| Found { bytes, at: location.clone() };
        match (location.scheme(), &self.http, &self.s3) {
            (Scheme::File, ..) => self.file.fetch(location, place, deadline).await.map(here),
            (Scheme::Http, Some(http), _) => http.fetch(location, deadline).await,
            (Scheme::S3, _, Some(s3)) => s3.fetch(location, deadline).await.map(here),
            (Scheme::Http | Scheme::S3, ..) => {
                Err(Failure::Fatal(format!("there is no client for {location}")))
            }
        }
    }

    /// Whether a place answers at all, asked for its prefix.
    pub async fn answers(&self, place: usize, deadline: Instant) -> bool {
        let prefix = &self.policy.places()[place];
        match (prefix.scheme(), &self.http, &self.s3) {
            (Scheme::File, ..) => self.file.answers(prefix, deadline).await,
            (Scheme::Http, Some(http), _) => http.answers(prefix, deadline).await,
            (Scheme::S3, _, Some(s3)) => s3.answers(prefix, deadline).await,
            (Scheme::Http | Scheme::S3, ..) => false,
        }
    }
}
