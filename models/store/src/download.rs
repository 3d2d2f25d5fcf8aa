//! Downloads a file over HTTP. An interrupted download keeps its partial file, and the next attempt
//! resumes from it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::RANGE;
use reqwest::{StatusCode, Url};

use crate::transfer::Transfer;
use crate::{Sources, StoreError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const CHUNK: usize = 1 << 18;
/// Maximum number of consecutive attempts that receive no data.
const ATTEMPTS: u32 = 4;
const RETRY_INITIAL: Duration = Duration::from_millis(500);

/// A file to download.
pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub url: &'a str,
    /// The token, which is only sent to the URL's own host.
    pub token: Option<&'a str>,
    /// The file's size, if known. More bytes than this are refused.
    pub bytes: Option<u64>,
}

/// Why an attempt ended.
enum AttemptError {
    /// Another attempt may help.
    Interrupted(String),
    Failed(StoreError),
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Builds a client with timeouts for connections and reads.
pub(crate) fn client(sources: &Sources) -> Result<Client, StoreError> {
    let name = concat!("unprompt/", env!("CARGO_PKG_VERSION"));
    let built = Client::builder().user_agent(name).connect_timeout(CONNECT_TIMEOUT).timeout(sources.patience);
    built.build().map_err(|error| StoreError::Download(causes(&error)))
}

impl Download<'_> {
    /// Downloads the file to `part`, resuming at its end. Calls `report` with the number of bytes
    /// received so far.
    pub fn to(&self, part: &Path, transfer: &Transfer<'_>, report: &dyn Fn(u64)) -> Result<(), StoreError> {
        let (mut attempts, mut delay) = (0, RETRY_INITIAL);
        loop {
            transfer.check_stop()?;
            let before = length(part);
            let reason = match self.attempt(part, transfer, report) {
                Ok(()) => return Ok(()),
                Err(AttemptError::Failed(error)) => return Err(error),
                Err(AttemptError::Interrupted(reason)) => reason,
            };
            if length(part) > before {
                (attempts, delay) = (0, RETRY_INITIAL);
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                return Err(StoreError::Download(format!("{}: {reason}", self.shown())));
            }
            (transfer.pull.say)(format!("{}: {reason}; trying again", self.shown()));
            std::thread::sleep(delay);
            delay *= 2;
        }
    }

    /// The URL for messages, without a user name and password: a package index has them there.
    fn shown(&self) -> String {
        match Url::parse(self.url) {
            Ok(mut url) => {
                // Fails only for a URL that cannot have any.
                _ = url.set_password(None).and_then(|()| url.set_username(""));
                url.into()
            }
            Err(_) => self.url.to_owned(),
        }
    }

    fn attempt(
        &self,
        part: &Path,
        transfer: &Transfer<'_>,
        report: &dyn Fn(u64),
    ) -> Result<(), AttemptError> {
        let begun = length(part);
        if self.bytes == Some(begun) {
            return Ok(());
        }
        // A part that is longer than the file cannot be its beginning.
        let begun = if self.bytes.is_some_and(|bytes| begun > bytes) { 0 } else { begun };
        let mut answer = self.request(begun)?;
        let resumes = begun > 0 && answer.status() == StatusCode::PARTIAL_CONTENT;
        let mut received = if resumes { begun } else { 0 };
        let mut file = open(part, resumes).map_err(|error| StoreError::folder(part, error))?;
        let announced = answer.content_length().map(|rest| received + rest);
        let mut chunk = vec![0u8; CHUNK];
        loop {
            transfer.check_stop()?;
            let read =
                answer.read(&mut chunk).map_err(|error| AttemptError::Interrupted(error.to_string()))?;
            if read == 0 {
                break;
            }
            received += read as u64;
            if self.bytes.is_some_and(|bytes| received > bytes) {
                _ = std::fs::remove_file(part);
                let what = format!("{}: it is longer than what was published", self.shown());
                return Err(StoreError::Download(what).into());
            }
            file.write_all(&chunk[..read]).map_err(|error| StoreError::folder(part, error))?;
            report(received);
        }
        file.sync_all().map_err(|error| StoreError::folder(part, error))?;
        match self.bytes.or(announced) {
            Some(whole) if received < whole => {
                Err(AttemptError::Interrupted(format!("{received} of {whole} bytes came")))
            }
            _ => Ok(()),
        }
    }

    /// Requests the file from byte `begun` on. The response may contain the whole file instead.
    fn request(&self, begun: u64) -> Result<Response, AttemptError> {
        let mut request = self.client.get(self.url);
        if begun > 0 {
            request = request.header(RANGE, format!("bytes={begun}-"));
        }
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().map_err(|error| AttemptError::Interrupted(causes(&error)))?;
        let status = answer.status();
        let failed =
            |what: String| AttemptError::Failed(StoreError::Download(format!("{}: {what}", self.shown())));
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            // There is no data after the part: it is the whole file or belongs to another one.
            StatusCode::RANGE_NOT_SATISFIABLE if begun > 0 => self.request(0),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(StoreError::Gated { url: self.shown(), status: status.as_u16() }.into())
            }
            StatusCode::NOT_FOUND => Err(failed("not there (404)".to_owned())),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(AttemptError::Interrupted(format!("the server answers {status}")))
            }
            status => Err(failed(format!("the server answers {status}"))),
        }
    }
}

fn open(part: &Path, resumes: bool) -> std::io::Result<File> {
    match resumes {
        true => OpenOptions::new().append(true).open(part),
        false => File::create(part),
    }
}

fn length(part: &Path) -> u64 {
    std::fs::metadata(part).map_or(0, |found| found.len())
}

/// Formats the causes of an error without the URL, which may contain a password.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        causes.push(inner.to_string());
        cause = inner.source();
    }
    match causes.is_empty() {
        true if error.is_timeout() => "nothing came for too long".to_owned(),
        true => "the request failed".to_owned(),
        false => causes.join(": "),
    }
}
