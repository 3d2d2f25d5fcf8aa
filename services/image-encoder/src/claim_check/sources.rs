//! All sources of pictures behind one interface.

use std::sync::Arc;

use tokio::time::Instant;

use super::failure::FetchFailure;
use super::file::FileSource;
use super::http::{FetchedImage, HttpSource};
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
    /// Only if a prefix needs it, since a client needs the system's certificates.
    http: Option<HttpSource>,
    s3: Option<S3Source>,
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

    /// Fetches a picture, if it is allowed.
    pub async fn fetch(&self, location: &Location, deadline: Instant) -> Result<FetchedImage, FetchFailure> {
        let place = &self.policy.places()[self.policy.place_of(location)?];
        let here = |bytes| FetchedImage { bytes, at: location.clone() };
        match (location.scheme(), &self.http, &self.s3) {
            (Scheme::File, ..) => self.file.fetch(location, place, deadline).await.map(here),
            (Scheme::Http, Some(http), _) => http.fetch(location, deadline).await,
            (Scheme::S3, _, Some(s3)) => s3.fetch(location, deadline).await.map(here),
            (Scheme::Http | Scheme::S3, ..) => {
                Err(FetchFailure::Fatal(format!("there is no client for {location}")))
            }
        }
    }

    /// Returns whether a place answers a request for its prefix.
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
