//! Pictures in S3 and compatible stores. The configuration chooses the server, not the record: the
//! server's address is trusted, a bucket's name is not.

use std::collections::HashMap;
use std::error::Error;

use futures::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{ObjectStoreExt, RetryConfig};
use reqwest::Client;
use tokio::time::Instant;

use super::failure::{FetchFailure, codes, with_causes};
use super::http;
use super::limits::{Body, within};
use super::location::{Location, Scheme};
use super::policy::Policy;
use super::settings::S3;
use crate::EncoderError;

/// S3's codes for wrong or expired credentials: no picture is to blame for them.
const BAD_CREDENTIALS: [&str; 7] = [
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];
/// The prefix of the client's text for an answer. That text holds the status and the body, but no
/// key; the texts of the errors around it hold the key, which is any text from a record.
const ANSWER: &str = "Server returned non-2xx status code: ";
/// The statuses with which S3 refuses credentials.
const REFUSING: [&str; 3] = ["400", "401", "403"];
/// The key of a probe; the object need not exist, since its absence is also an answer.
const PROBE: &str = "unprompt-probe";

#[derive(Debug)]
pub struct S3Source {
    /// The stores of the allowed prefixes, by bucket.
    stores: HashMap<String, AmazonS3>,
    max_bytes: usize,
}

/// Gives every bucket the same client, which follows no redirects.
#[derive(Debug)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl S3Source {
    pub fn new(settings: &S3, policy: &Policy, max_bytes: usize) -> Result<Self, EncoderError> {
        let client = http::client().no_proxy().https_only(!settings.allow_http).build();
        let client = client.map_err(|error| EncoderError::HttpClient(with_causes(&error)))?;
        let places = policy.places().iter().filter(|place| place.scheme() == Scheme::S3);
        let stores = places.map(|place| {
            let bucket = place.bucket();
            Ok((bucket.to_owned(), store(settings, bucket, client.clone())?))
        });
        Ok(Self { stores: stores.collect::<Result<_, EncoderError>>()?, max_bytes })
    }

    pub async fn fetch(&self, location: &Location, deadline: Instant) -> Result<Vec<u8>, FetchFailure> {
        within(deadline, location, self.read(location)).await
    }

    /// Returns whether the store answers requests for the bucket.
    pub async fn answers(&self, prefix: &Location, deadline: Instant) -> bool {
        let key = format!("{}/{PROBE}", prefix.key().trim_end_matches('/'));
        let (Some(store), Ok(path)) = (self.stores.get(prefix.bucket()), Path::parse(&key)) else {
            return false;
        };
        let asked = async { store.head(&path).await.map_err(|error| failed(prefix, &error)) };
        !matches!(within(deadline, prefix, asked).await, Err(FetchFailure::Outage(_)))
    }

    async fn read(&self, at: &Location) -> Result<Vec<u8>, FetchFailure> {
        let store = self.stores.get(at.bucket());
        let store = store.ok_or_else(|| FetchFailure::not_found(at, "no client for its bucket"))?;
        let path = Path::parse(at.key()).map_err(|error| {
            FetchFailure::refused(
                codes::BAD_URI,
                format!("{at}: {error}; such a key cannot be requested, store the object under another"),
            )
        })?;
        let found = store.get(&path).await.map_err(|error| failed(at, &error))?;
        let mut body = Body::new(at, Some(found.meta.size), self.max_bytes)?;
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.next().await {
            body.push(&chunk.map_err(|error| failed(at, &error))?)?;
        }
        body.finish()
    }
}

fn store(settings: &S3, bucket: &str, client: Client) -> Result<AmazonS3, EncoderError> {
    // No retries here: they are made in one place, for every kind of source.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let mut store = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&settings.region)
        .with_allow_http(settings.allow_http)
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_retry(retry)
        .with_http_connector(Connector(client));
    if let Some(endpoint) = &settings.endpoint {
        store = store.with_endpoint(if settings.path_style {
            endpoint.clone()
        } else {
            hosted(endpoint, bucket)
        });
    }
    store = match (&settings.access_key_id, &settings.secret_access_key) {
        (Some(id), Some(secret)) => {
            store.with_access_key_id(id.expose()).with_secret_access_key(secret.expose())
        }
        _ => store.with_skip_signature(true),
    };
    if let Some(token) = &settings.session_token {
        store = store.with_token(token.expose());
    }
    store
        .build()
        .map_err(|error| EncoderError::S3Client { bucket: bucket.to_owned(), reason: error.to_string() })
}

/// Turns `https://host` into `https://bucket.host`.
fn hosted(endpoint: &str, bucket: &str) -> String {
    endpoint.replacen("://", &format!("://{bucket}."), 1)
}

fn failed(at: &Location, error: &object_store::Error) -> FetchFailure {
    use object_store::Error as E;
    let answer = answer_in(error);
    let code = answer.as_deref().and_then(code_of);
    match (error, code) {
        (_, Some(code)) if BAD_CREDENTIALS.contains(&code) && answer.as_deref().is_some_and(refuses) => {
            FetchFailure::Fatal(format!(
                "S3 refuses the credentials ({code}); check the keys in [claim_check.s3] and the clock"
            ))
        }
        (E::NotFound { .. }, code) => FetchFailure::not_found(at, code.unwrap_or("not found")),
        (E::PermissionDenied { .. } | E::Unauthenticated { .. }, code) => {
            FetchFailure::not_found(at, code.unwrap_or("access denied"))
        }
        _ => FetchFailure::outage(at, format!("{at}: {}", with_causes(error))),
    }
}

/// The status and body of the store's answer, as `404 Not Found: <Error>…`. It is parsed from text,
/// since the client's type for it is private.
fn answer_in(error: &object_store::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(answer) = error.to_string().strip_prefix(ANSWER) {
            return Some(answer.to_owned());
        }
        cause = error.source();
    }
    None
}

fn code_of(answer: &str) -> Option<&str> {
    answer.split_once("<Code>").and_then(|(_, rest)| rest.split('<').next())
}

fn refuses(answer: &str) -> bool {
    REFUSING.iter().any(|status| answer.starts_with(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nested as the client's errors: the request, then the answer.
    #[derive(Debug, thiserror::Error)]
    #[error("Error performing GET http://host/pictures/key in 1ms - {0}")]
    struct Request(#[source] StatusText);

    #[derive(Debug, thiserror::Error)]
    #[error("Server returned non-2xx status code: {0}")]
    struct StatusText(&'static str);

    fn source(answer: &'static str) -> Box<Request> {
        Box::new(Request(StatusText(answer)))
    }

    fn at() -> Location {
        Location::parse("s3://pictures/1.png").unwrap()
    }

    #[test]
    fn text_in_a_key_is_not_mistaken_for_the_stores_answer() {
        for path in
            ["<Code>InvalidToken<.png", "Server returned non-2xx status code: 403: <Code>InvalidToken<.png"]
        {
            let missing = source("404 Not Found: <Error><Code>NoSuchKey</Code></Error>");
            let error = object_store::Error::NotFound { path: path.into(), source: missing };
            let failure = failed(&at(), &error);
            let FetchFailure::Refused(rejection) = failure else { panic!("{path}: {failure:?}") };
            assert_eq!(rejection.code, codes::NOT_FOUND);
            assert!(rejection.reason.contains("NoSuchKey"), "{}", rejection.reason);
        }
    }

    #[test]
    fn only_refusing_statuses_count_as_refused_credentials() {
        let generic = |answer| object_store::Error::Generic { store: "S3", source: source(answer) };
        for answer in
            ["400 Bad Request: <Code>ExpiredToken</Code>", "403 Forbidden: <Code>ExpiredToken</Code>"]
        {
            let failure = failed(&at(), &generic(answer));
            assert!(matches!(failure, FetchFailure::Fatal(_)), "{failure:?}");
        }
        let failure = failed(&at(), &generic("503 Service Unavailable: <Code>ExpiredToken</Code>"));
        assert!(matches!(failure, FetchFailure::Outage(_)), "{failure:?}");
    }

    #[test]
    fn virtual_hosted_style_puts_the_bucket_before_the_endpoints_host() {
        assert_eq!(hosted("https://host:9000", "pictures"), "https://pictures.host:9000");
    }
}
