//! A file over HTTP into a part of it that stays when it is cut off, and is gone on with.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::RANGE;

use crate::pull::Job;
use crate::{Sources, StoreError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const PIECE: usize = 1 << 18;
/// Tries that bring nothing, in a row.
const TRIES: u32 = 4;
const RETRY_INITIAL: Duration = Duration::from_millis(500);

/// What is fetched.
pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub url: &'a str,
    /// Sent to the URL's own host only.
    pub token: Option<&'a str>,
    /// Its size, where that is known: no more is taken.
    pub bytes: Option<u64>,
}

/// Why a try ended.
enum Ended {
    /// Trying again may help.
    Cut(String),
    Failed(StoreError),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// A client whose connections and reads end some time.
pub(crate) fn client(sources: &Sources) -> Result<Client, StoreError> {
    let name = concat!("unprompt/", env!("CARGO_PKG_VERSION"));
    let built = Client::builder().user_agent(name).connect_timeout(CONNECT_TIMEOUT).timeout(sources.patience);
    built.build().map_err(|error| StoreError::Download(told(&error)))
}

impl Download<'_> {
    /// Brings the file to `part`, behind what is there of it already. `tell` is told how much of it has come.
    pub fn to(&self, part: &Path, job: &Job<'_>, tell: &dyn Fn(u64)) -> Result<(), StoreError> {
        let (mut tries, mut delay) = (0, RETRY_INITIAL);
        loop {
            job.check_stop()?;
            let before = length(part);
            let reason = match self.one_try(part, job, tell) {
                Ok(()) => return Ok(()),
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Cut(reason)) => reason,
            };
            if length(part) > before {
                (tries, delay) = (0, RETRY_INITIAL);
            }
            tries += 1;
            if tries == TRIES {
                return Err(StoreError::Download(format!("{}: {reason}", self.url)));
            }
            (job.pull.say)(format!("{}: {reason}; trying again", self.url));
            std::thread::sleep(delay);
            delay *= 2;
        }
    }

    fn one_try(&self, part: &Path, job: &Job<'_>, tell: &dyn Fn(u64)) -> Result<(), Ended> {
        let begun = length(part);
        if self.bytes == Some(begun) {
            return Ok(());
        }
        // More than there is of it is not the beginning of it.
        let begun = if self.bytes.is_some_and(|bytes| begun > bytes) { 0 } else { begun };
        let answer = self.ask(begun)?;
        let goes_on = begun > 0 && answer.status() == StatusCode::PARTIAL_CONTENT;
        let (mut come, mut answer) = (if goes_on { begun } else { 0 }, answer);
        let mut file = open(part, goes_on).map_err(|error| StoreError::folder(part, error))?;
        let announced = answer.content_length().map(|rest| come + rest);
        let mut piece = vec![0u8; PIECE];
        loop {
            job.check_stop()?;
            let read = answer.read(&mut piece).map_err(|error| Ended::Cut(error.to_string()))?;
            if read == 0 {
                break;
            }
            come += read as u64;
            if self.bytes.is_some_and(|bytes| come > bytes) {
                _ = std::fs::remove_file(part);
                let what = format!("{}: it is longer than what was published", self.url);
                return Err(StoreError::Download(what).into());
            }
            file.write_all(&piece[..read]).map_err(|error| StoreError::folder(part, error))?;
            tell(come);
        }
        file.sync_all().map_err(|error| StoreError::folder(part, error))?;
        match self.bytes.or(announced) {
            Some(whole) if come < whole => Err(Ended::Cut(format!("{come} of {whole} bytes came"))),
            _ => Ok(()),
        }
    }

    /// An answer that has the file from `begun` on, or all of it.
    fn ask(&self, begun: u64) -> Result<Response, Ended> {
        let mut request = self.client.get(self.url);
        if begun > 0 {
            request = request.header(RANGE, format!("bytes={begun}-"));
        }
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().map_err(|error| Ended::Cut(told(&error)))?;
        let status = answer.status();
        let failed = |what: String| Ended::Failed(StoreError::Download(format!("{}: {what}", self.url)));
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            // Nothing is behind what came: it was all of it, or is no part of it.
            StatusCode::RANGE_NOT_SATISFIABLE if begun > 0 => self.ask(0),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(StoreError::Gated { url: self.url.to_owned(), status: status.as_u16() }.into())
            }
            StatusCode::NOT_FOUND => Err(failed("not there (404)".to_owned())),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Ended::Cut(format!("the server answers {status}")))
            }
            status => Err(failed(format!("the server answers {status}"))),
        }
    }
}

fn open(part: &Path, goes_on: bool) -> std::io::Result<File> {
    match goes_on {
        true => OpenOptions::new().append(true).open(part),
        false => File::create(part),
    }
}

fn length(part: &Path) -> u64 {
    std::fs::metadata(part).map_or(0, |found| found.len())
}

/// With its causes, and without the URL, which may hold a password.
pub(crate) fn told(error: &reqwest::Error) -> String {
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
