//! Requests to a schema registry: addresses in turn, credentials, certificates, bounded
//! responses, retries.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Certificate, Method, StatusCode, Url, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::config::{RegistryConfig, Secret};
use crate::retry::Backoff;

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// The longest response that is read, and so the longest schema.
const ANSWER_MAX_BYTES: u64 = 1 << 20;
/// The number of attempts on all addresses; the caller may ask again later.
const TRIES: u32 = 3;
/// Delays between the tries: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A request to a registry.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    method: Method,
    /// The segments of the path, not escaped.
    path: &'a [&'a str],
    query: Option<&'static str>,
    body: Option<Value>,
}

/// Why there is no usable answer.
#[derive(Debug)]
pub(super) enum RequestFailure {
    /// Nobody answers, or something that is not a schema registry; that may pass.
    Away(String),
    /// The registry says that it has no such subject, version or schema.
    Missing(String),
    /// The schema contradicts another, or is not a schema.
    Conflict(String),
    TooLong(String),
    /// Anything else that asking again does not fix.
    Refused(String),
}

/// The body of a registry's error response.
#[derive(Deserialize)]
struct ErrorBody {
    error_code: i64,
    #[serde(default)]
    message: String,
}

#[derive(Debug)]
enum Credentials {
    None,
    Basic(String, Secret),
    Bearer(Secret),
}

#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    addresses: Vec<Url>,
    credentials: Credentials,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a [&'a str]) -> Self {
        Self { method: Method::GET, path, query: None, body: None }
    }

    pub fn post(path: &'a [&'a str], body: Value) -> Self {
        Self { method: Method::POST, path, query: None, body: Some(body) }
    }

    pub fn put(path: &'a [&'a str], body: Value) -> Self {
        Self { method: Method::PUT, path, query: None, body: Some(body) }
    }

    pub fn with_query(self, query: &'static str) -> Self {
        Self { query: Some(query), ..self }
    }

    fn url(&self, address: &Url) -> Url {
        let mut url = address.clone();
        // The constructor refuses addresses that cannot have a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(self.path);
        }
        url.set_query(self.query);
        url
    }
}

impl Http {
    pub fn new(section: &RegistryConfig) -> Result<Self, String> {
        let addresses = addresses(section.url.as_deref().unwrap_or_default())?;
        let credentials = credentials(section)?;
        let timeout = Duration::from_millis(section.timeout_ms);
        let certificates = match &section.ca_file {
            Some(file) => Some(certificates(file)?),
            // Without encryption, the system's authorities need not be there.
            None if addresses.iter().all(|address| address.scheme() == "http") => Some(Vec::new()),
            None => None,
        };
        let client = apart(|| {
            let builder = Client::builder().timeout(timeout).connect_timeout(timeout);
            let builder = match certificates {
                Some(certificates) => builder.tls_certs_only(certificates),
                None => builder,
            };
            builder.build()
        });
        let client =
            client.map_err(|error| format!("[registry]: no HTTP client: {}", with_causes(&error)))?;
        Ok(Self { client, addresses, credentials })
    }

    /// Sends a request and waits for the answer. It may be called on any thread; other tasks of a
    /// runtime continue meanwhile.
    pub fn ask(&self, request: &Request<'_>) -> Result<Vec<u8>, RequestFailure> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        apart(|| {
            loop {
                let delay = backoff.next();
                match self.ask_each(request) {
                    Err(RequestFailure::Away(_)) if backoff.tries() < TRIES => std::thread::sleep(delay),
                    answered => return answered,
                }
            }
        })
    }

    /// Returns the answer of the first address that gives one.
    fn ask_each(&self, request: &Request<'_>) -> Result<Vec<u8>, RequestFailure> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            match self.ask_one(address, request) {
                Err(RequestFailure::Away(reason)) => reasons.push(format!("{address}: {reason}")),
                answered => return answered,
            }
        }
        Err(RequestFailure::Away(reasons.join("; ")))
    }

    fn ask_one(&self, address: &Url, request: &Request<'_>) -> Result<Vec<u8>, RequestFailure> {
        let mut asking = self.client.request(request.method.clone(), request.url(address));
        asking = self.authorized(asking).header(header::ACCEPT, MEDIA_TYPE);
        if let Some(body) = &request.body {
            asking = asking.header(header::CONTENT_TYPE, MEDIA_TYPE).body(body.to_string());
        }
        let response =
            asking.send().map_err(|error| RequestFailure::Away(with_causes(&error.without_url())))?;
        let status = response.status();
        let answer = read(response)?;
        if status.is_success() { Ok(answer) } else { Err(failure(status, &answer)) }
    }

    fn authorized(&self, asking: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            Credentials::None => asking,
            Credentials::Basic(username, password) => asking.basic_auth(username, Some(password.expose())),
            Credentials::Bearer(token) => asking.bearer_auth(token.expose()),
        }
    }
}

fn addresses(url: &str) -> Result<Vec<Url>, String> {
    let written: Vec<&str> = url.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    if written.is_empty() {
        return Err("[registry] url is empty; write http://host:8081, or take it out".to_owned());
    }
    written.into_iter().map(address).collect()
}

/// Parses an address. An error does not repeat its text if that may hold a password.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| {
        format!(
            "[registry] url is not an address ({error}); write http://host:8081, several with commas between"
        )
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "[registry] url begins with {}:, and only http and https are spoken",
            url.scheme()
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("[registry] url holds credentials, which would end up in logs; write them as username and password \
                    in [registry]"
            .to_owned());
    }
    Ok(url)
}

fn credentials(section: &RegistryConfig) -> Result<Credentials, String> {
    match (&section.username, &section.password, &section.token) {
        (None, None, None) => Ok(Credentials::None),
        (Some(username), Some(password), None) => Ok(Credentials::Basic(username.clone(), password.clone())),
        (None, None, Some(token)) => Ok(Credentials::Bearer(token.clone())),
        (_, _, Some(_)) => {
            Err("[registry] has a token and a username or password; keep what the registry asks for"
                .to_owned())
        }
        _ => Err("[registry] has one of username and password; write both, or a token".to_owned()),
    }
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, String> {
    let wrong = |what: String| format!("[registry] ca_file {}: {what}", file.display());
    let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&text) {
        Ok(found) if found.is_empty() => Err(wrong("no certificate in it; it wants PEM".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(with_causes(&error))),
    }
}

fn read(response: Response) -> Result<Vec<u8>, RequestFailure> {
    let mut answer = Vec::new();
    let read = response.take(ANSWER_MAX_BYTES + 1).read_to_end(&mut answer);
    read.map_err(|error| RequestFailure::Away(with_causes(&error)))?;
    if answer.len() as u64 > ANSWER_MAX_BYTES {
        return Err(RequestFailure::TooLong(format!("the answer is longer than {ANSWER_MAX_BYTES} bytes")));
    }
    Ok(answer)
}

/// Classifies an error response. A registry sends an error code of its own; a 404 without one comes
/// from something else at its address.
fn failure(status: StatusCode, answer: &[u8]) -> RequestFailure {
    let complaint: Option<ErrorBody> = serde_json::from_slice(answer).ok();
    let reason = match &complaint {
        Some(ErrorBody { message, .. }) if !message.is_empty() => format!("{status}: {message}"),
        _ => status.to_string(),
    };
    match (status, complaint) {
        (StatusCode::NOT_FOUND, Some(complaint)) if complaint.error_code > 404 => {
            RequestFailure::Missing(reason)
        }
        (StatusCode::NOT_FOUND, _) => RequestFailure::Away(format!("{reason}, and no schema registry's")),
        (StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY, _) => RequestFailure::Conflict(reason),
        (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => RequestFailure::Away(reason),
        _ if status.is_server_error() => RequestFailure::Away(reason),
        _ => RequestFailure::Refused(reason),
    }
}

/// Joins an error and its causes into one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Runs blocking code so that no other task of a runtime waits for it. Stages ask from threads of
/// their own; commands and table readers ask from a runtime's threads.
fn apart<T: Send>(blocks: impl FnOnce() -> T + Send) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Err(_) => blocks(),
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(blocks),
        // A current-thread runtime has one thread, and reqwest refuses to block it.
        Ok(_) => std::thread::scope(|scope| match scope.spawn(blocks).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }),
    }
}
