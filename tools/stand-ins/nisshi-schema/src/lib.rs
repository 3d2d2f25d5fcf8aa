//! Stands in for nisshi-schema: the embedded broker has neither a schema registry nor a lake house,
//! so values of these types never exist. It contains what nisshi's other crates call, and a
//! faithful `redact_url`.

use std::fmt;

use nisshi_sans_io::ErrorCode;
use nisshi_sans_io::record::inflated::Batch;
use url::Url;

pub mod lake;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The answer to a client.
    Api(ErrorCode),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Error {}

/// A schema registry, which does not exist here.
#[derive(Clone, Debug)]
pub enum Registry {}

impl Registry {
    pub async fn validate(&self, _topic: &str, _batch: &Batch) -> Result<()> {
        match *self {}
    }
}

/// The URL without its password.
pub fn redact_url(url: &Url) -> Url {
    let mut redacted = url.clone();
    if redacted.password().is_some() {
        // Fails for URLs that cannot have a password.
        let _ = redacted.set_password(None);
    }
    redacted
}
