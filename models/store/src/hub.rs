//! The Hugging Face hub: a repository's files at a commit.
//!
//! Files that other tools have cached are copied; hf-hub knows the cache's layout. Downloads do not
//! use hf-hub, because it takes file names from headers unchecked, appends any response to a
//! partial file, waits forever for a silent server and sends the token to every host that a
//! redirect leads to.

use std::path::PathBuf;

use hf_hub::{Cache, Repo, RepoType};
use secrecy::{ExposeSecret, SecretString};

use crate::download::{Download, client};
use crate::manifest::PinnedFile;
use crate::transfer::Transfer;
use crate::{Sources, StoreError};

/// A repository at a commit.
pub(crate) struct Hub<'a> {
    repository: &'a str,
    revision: &'a str,
}

impl<'a> Hub<'a> {
    pub fn new(repository: &'a str, revision: &'a str) -> Self {
        Self { repository, revision }
    }

    pub fn fetch(&self, transfer: &mut Transfer<'_>, files: &[&PinnedFile]) -> Result<(), StoreError> {
        let mut left = Vec::new();
        for file in files {
            match self.in_cache(&transfer.pull.sources, &file.path) {
                Some(cached) if transfer.copy(&cached, file).is_ok() => {
                    (transfer.pull.say)(format!("{} was there", cached.display()))
                }
                _ => left.push(*file),
            }
            transfer.check_stop()?;
        }
        if left.is_empty() {
            return Ok(());
        }
        if transfer.pull.sources.is_offline {
            return Err(StoreError::Download(format!(
                "HF_HUB_OFFLINE is set, and {} is on the hub",
                self.repository
            )));
        }
        let client = client(&transfer.pull.sources)?;
        left.into_iter().try_for_each(|file| {
            let url = self.url(&transfer.pull.sources, &file.path);
            let part = transfer.part(file);
            let token = transfer.pull.sources.hub_token.as_ref().map(SecretString::expose_secret);
            Download { client: &client, url: &url, token, bytes: file.bytes }.to(
                &part,
                transfer,
                &|bytes| transfer.report(bytes),
            )?;
            transfer.place(&part, file, &url)
        })
    }

    fn url(&self, sources: &Sources, path: &str) -> String {
        format!("{}/{}/resolve/{}/{path}", sources.hub.trim_end_matches('/'), self.repository, self.revision)
    }

    fn in_cache(&self, sources: &Sources, path: &str) -> Option<PathBuf> {
        let repo = Repo::with_revision(self.repository.to_owned(), RepoType::Model, self.revision.to_owned());
        let found = Cache::new(sources.hub_cache.clone()?).repo(repo).pointer_path(self.revision).join(path);
        found.is_file().then_some(found)
    }
}
