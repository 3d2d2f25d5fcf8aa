//! Why a fetch failed: permanently, temporarily, or because of this service's configuration.

use std::error::Error;

use unprompt_stream::Rejection;

use super::location::Location;

/// The stable codes of claim checks' dead letters.
pub mod codes {
    /// The record's value does not name exactly one URI.
    pub const URI_LIST: &str = "uri-list";
    /// The URI is malformed, has credentials, or has an unsupported scheme.
    pub const BAD_URI: &str = "bad-uri";
    /// The URI is not under any allowed prefix.
    pub const NOT_ALLOWED: &str = "uri-not-allowed";
    /// The host's address is not public.
    pub const PRIVATE_ADDRESS: &str = "private-address";
    /// A redirect leads to a URI that is not allowed, or there are too many redirects.
    pub const REDIRECT: &str = "redirect-refused";
    /// The picture does not exist, or this service may not read it.
    pub const NOT_FOUND: &str = "picture-not-found";
    /// The same code as for a picture in the record itself.
    pub const TOO_LARGE: &str = "image-too-large";
    /// The same code as for a picture in the record itself.
    pub const EMPTY: &str = "empty-image";
    /// An HTTP answer that is neither a picture nor a known refusal.
    pub const UNEXPECTED: &str = "unexpected-answer";
    /// It fails in every attempt, while its place answers.
    pub const UNAVAILABLE: &str = "picture-unavailable";
}

/// Why a fetch returned no picture.
#[derive(Clone, Debug)]
pub enum FetchFailure {
    /// Permanent.
    Refused(Rejection),
    /// Temporary.
    Outage(Outage),
    /// Until the configuration changes.
    Fatal(String),
}

/// A failure that may pass.
#[derive(Clone, Debug)]
pub struct Outage {
    /// The location that failed; a redirect may have led there.
    pub at: Box<Location>,
    pub reason: String,
}

impl FetchFailure {
    pub fn refused(code: &'static str, reason: impl Into<String>) -> Self {
        Self::Refused(Rejection::new(code, reason))
    }

    pub fn outage(at: &Location, reason: impl Into<String>) -> Self {
        Self::Outage(Outage { at: Box::new(at.clone()), reason: reason.into() })
    }

    pub fn not_found(at: &Location, answer: &str) -> Self {
        Self::refused(
            codes::NOT_FOUND,
            format!(
                "{at} is missing or not readable by this service ({answer}); publish it again once it is \
                 available"
            ),
        )
    }

    pub fn too_large(at: &Location, max_bytes: usize) -> Self {
        Self::refused(
            codes::TOO_LARGE,
            format!(
                "{at} has more than the {max_bytes} bytes that are allowed; make the picture smaller, or raise max_bytes in \
                 [claim_check]"
            ),
        )
    }
}

impl From<Rejection> for FetchFailure {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

/// Formats an error with all its causes on one line: an HTTP client's outermost error rarely says
/// what happened.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
