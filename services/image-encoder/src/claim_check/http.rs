//! Pictures over HTTP and HTTPS.
//!
//! Redirects are followed here and not by the client, so that each one is checked against the
//! allowed prefixes. No proxy is used, since it would resolve names itself. Nothing is
//! decompressed, so that no body is larger than the transfer.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;

use reqwest::header::{ACCEPT_ENCODING, LOCATION};
use reqwest::{Client, ClientBuilder, Response, StatusCode, redirect};
use tokio::time::Instant;
use url::Host;

use super::address::{self, CheckedResolver, RefusedAddress};
use super::failure::{FetchFailure, codes, with_causes};
use super::limits::{Body, within};
use super::location::{Location, Scheme};
use super::policy::Policy;
use crate::EncoderError;

/// The maximum number of redirects.
const MAX_REDIRECTS: usize = 5;

/// An image and its final location, after redirects.
#[derive(Debug)]
pub struct FetchedImage {
    pub bytes: Vec<u8>,
    pub at: Location,
}

/// The base of all HTTP clients here.
pub fn client() -> ClientBuilder {
    let agent = concat!("unprompt/", env!("CARGO_PKG_VERSION"));
    let client = Client::builder().user_agent(agent).redirect(redirect::Policy::none()).referer(false);
    client.no_gzip().no_brotli().no_zstd().no_deflate()
}

#[derive(Debug)]
pub struct HttpSource {
    client: Client,
    policy: Arc<Policy>,
    allow_private: bool,
    max_bytes: usize,
}

impl HttpSource {
    pub fn new(policy: Arc<Policy>, allow_private: bool, max_bytes: usize) -> Result<Self, EncoderError> {
        let client = client().no_proxy().dns_resolver(CheckedResolver { allow_private }).build();
        let client = client.map_err(|error| EncoderError::HttpClient(with_causes(&error)))?;
        Ok(Self { client, policy, allow_private, max_bytes })
    }

    /// Fetches the picture at `location` or where its redirects lead.
    pub async fn fetch(&self, location: &Location, deadline: Instant) -> Result<FetchedImage, FetchFailure> {
        let mut at = location.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get(&at, deadline).await?;
            match redirect_of(&response) {
                Some(to) => at = self.follow(&at, &to)?,
                None => {
                    let bytes = within(deadline, &at, self.read(&at, response)).await?;
                    return Ok(FetchedImage { bytes, at });
                }
            }
        }
        Err(FetchFailure::refused(
            codes::REDIRECT,
            format!(
                "{location} leads through more than {MAX_REDIRECTS} redirects; publish the URI that they lead to"
            ),
        ))
    }

    /// Returns whether the server answers with any status that does not mean an outage.
    pub async fn answers(&self, location: &Location, deadline: Instant) -> bool {
        match self.get(location, deadline).await {
            Ok(response) => !is_outage(response.status()),
            Err(_) => false,
        }
    }

    async fn get(&self, at: &Location, deadline: Instant) -> Result<Response, FetchFailure> {
        self.check_literal(at)?;
        let request = self.client.get(at.url().clone()).header(ACCEPT_ENCODING, "identity");
        let answer = async { request.send().await.map_err(|error| failed(at, error)) };
        within(deadline, at, answer).await
    }

    /// Checks an address written in the URI; the client calls its resolver only for names.
    fn check_literal(&self, at: &Location) -> Result<(), FetchFailure> {
        let address = match at.url().host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            _ => return Ok(()),
        };
        address::check(address, self.allow_private).map_err(|refused| refused_address(at, &refused))
    }

    fn follow(&self, at: &Location, to: &str) -> Result<Location, FetchFailure> {
        let refused = |reason: &str| {
            FetchFailure::refused(
                codes::REDIRECT,
                format!("{at} redirects to where nothing may be fetched: {reason}"),
            )
        };
        let next = at.redirected(to).map_err(|error| refused(&error.to_string()))?;
        if next.scheme() != Scheme::Http {
            return Err(refused("a redirect of HTTP stays with HTTP; publish the URI that it leads to"));
        }
        match self.policy.place_of(&next) {
            Ok(_) => Ok(next),
            Err(rejection) => Err(refused(&rejection.reason)),
        }
    }

    async fn read(&self, at: &Location, mut response: Response) -> Result<Vec<u8>, FetchFailure> {
        check_status(at, response.status())?;
        let mut body = Body::new(at, response.content_length(), self.max_bytes)?;
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(at, error))? {
            body.push(&chunk)?;
        }
        body.finish()
    }
}

fn redirect_of(response: &Response) -> Option<String> {
    use StatusCode as S;
    let status = response.status();
    let redirects =
        [S::MOVED_PERMANENTLY, S::FOUND, S::SEE_OTHER, S::TEMPORARY_REDIRECT, S::PERMANENT_REDIRECT]
            .contains(&status);
    let to = response.headers().get(LOCATION).filter(|_| redirects)?;
    Some(String::from_utf8_lossy(to.as_bytes()).into_owned())
}

/// Returns whether the status is temporary, so that the same request may succeed later.
fn is_outage(status: StatusCode) -> bool {
    use StatusCode as S;
    status.is_server_error() || [S::REQUEST_TIMEOUT, S::TOO_EARLY, S::TOO_MANY_REQUESTS].contains(&status)
}

fn check_status(at: &Location, status: StatusCode) -> Result<(), FetchFailure> {
    use StatusCode as S;
    match status {
        _ if status.is_success() => Ok(()),
        _ if is_outage(status) => Err(FetchFailure::outage(at, format!("{at} answers {status}"))),
        S::NOT_FOUND | S::GONE | S::FORBIDDEN | S::UNAUTHORIZED => {
            Err(FetchFailure::not_found(at, &status.to_string()))
        }
        _ => Err(FetchFailure::refused(
            codes::UNEXPECTED,
            format!(
                "{at} answers {status} instead of a picture; publish a URI that returns the picture for a \
                 plain GET"
            ),
        )),
    }
}

/// Removes the URL from the error, since the client's text would contain the whole URI.
fn failed(at: &Location, error: reqwest::Error) -> FetchFailure {
    let error = error.without_url();
    match refusal_in(&error) {
        Some(refused) => refused_address(at, refused),
        None => FetchFailure::outage(at, format!("{at}: {}", with_causes(&error))),
    }
}

/// Finds the resolver's refusal, which the client wraps in its own errors.
fn refusal_in(error: &reqwest::Error) -> Option<&RefusedAddress> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}

fn refused_address(at: &Location, refused: &RefusedAddress) -> FetchFailure {
    FetchFailure::refused(codes::PRIVATE_ADDRESS, format!("{at}: {refused}"))
}
