//! The Hugging Face hub: a repository's files at a commit. What other tools have fetched for this user is taken from their cache, whose
//! layout hf-hub knows. Downloads are not hf-hub's: it takes names of files from headers unchecked, appends to a part whatever an answer
//! holds, waits without end for a silent server, and shows the token to every host that it is sent to.

use std::path::PathBuf;

use hf_hub::{Cache, Repo, RepoType};

use crate::download::{Download, client};
use crate::manifest::PinnedFile;
use crate::pull::Job;
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

    pub fn bring(&self, job: &mut Job<'_>, files: &[&PinnedFile]) -> Result<(), StoreError> {
        let mut left = Vec::new();
        for file in files {
            match self.in_cache(&job.pull.sources, &file.path) {
                Some(there) if job.copy(&there, file).is_ok() => {
                    (job.pull.say)(format!("{} was there", there.display()))
                }
                _ => left.push(*file),
            }
            job.check_stop()?;
        }
        if left.is_empty() {
            return Ok(());
        }
        if job.pull.sources.is_offline {
            return Err(StoreError::Download(format!(
                "HF_HUB_OFFLINE is set, and {} is on the hub",
                self.repository
            )));
        }
        let client = client(&job.pull.sources)?;
        left.into_iter().try_for_each(|file| {
            let url = self.url(&job.pull.sources, &file.path);
            let part = job.part(file);
            let token = job.pull.sources.hub_token.as_deref();
            Download { client: &client, url: &url, token, bytes: file.bytes }
                .to(&part, job, &|come| job.come(come))?;
            job.place(&part, file, &url)
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
