//! The Hugging Face hub, through hf-hub: a repository's files at a commit. What its own cache on this machine has is not fetched again.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::manifest::PinnedFile;
use crate::pull::Job;
use crate::{Sources, StoreError};

/// A repository at a commit.
pub(crate) struct Hub<'a> {
    repository: &'a str,
    revision: &'a str,
}

/// A download that has come no further so often in a row is given up.
const TRIES: u32 = 4;
const RETRY_INITIAL: Duration = Duration::from_millis(500);

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
        let cache = Cache::new(job.staging.join("hub"));
        let remote = api(&job.pull.sources, cache.clone())?.repo(self.repo());
        left.into_iter().try_for_each(|file| {
            let come = self.download(job, &remote, &cache, file)?;
            let whole = come.canonicalize().map_err(|error| StoreError::folder(&come, error))?;
            job.place(&whole, file, &remote.url(&file.path))?;
            // A link to where the file was.
            _ = std::fs::remove_file(come);
            Ok(())
        })
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.repository.to_owned(), RepoType::Model, self.revision.to_owned())
    }

    /// What transformers, diffusers or huggingface-cli have fetched for this user.
    fn in_cache(&self, sources: &Sources, path: &str) -> Option<PathBuf> {
        let found =
            Cache::new(sources.hub_cache.clone()).repo(self.repo()).pointer_path(self.revision).join(path);
        found.is_file().then_some(found)
    }

    /// A file that came whole, in hf-hub's layout.
    fn download(
        &self,
        job: &Job<'_>,
        remote: &ApiRepo,
        cache: &Cache,
        file: &PinnedFile,
    ) -> Result<PathBuf, StoreError> {
        let (url, furthest) = (remote.url(&file.path), Cell::new(0));
        let (mut tries, mut delay) = (0, RETRY_INITIAL);
        loop {
            job.check_stop()?;
            let before = furthest.get();
            let counting = Counting { job, furthest: &furthest, come: 0 };
            let failure = match remote.download_with_progress(&file.path, counting) {
                Ok(path) => return Ok(path),
                Err(failure) => failure,
            };
            if furthest.get() > before {
                (tries, delay) = (0, RETRY_INITIAL);
            }
            tries += 1;
            judge(&url, &failure, tries == TRIES)?;
            if starts_over(&failure) {
                forget_begun(&cache.path().join(self.repo().folder_name()).join("blobs"));
            }
            (job.pull.say)(format!("{url}: {failure}; trying again"));
            std::thread::sleep(delay);
            delay *= 2;
        }
    }
}

/// Its own retries forget where a file that was begun earlier stands; ours ask for what is missing.
fn api(sources: &Sources, cache: Cache) -> Result<Api, StoreError> {
    ApiBuilder::from_cache(cache)
        .with_endpoint(sources.hub.trim_end_matches('/').to_owned())
        .with_token(sources.hub_token.clone())
        .with_user_agent("unprompt", env!("CARGO_PKG_VERSION"))
        .with_retries(0)
        .with_progress(false)
        .build()
        .map_err(|error| StoreError::Download(format!("{} cannot be asked: {error}", sources.hub)))
}

/// What is begun is longer than the file, or as long and not in its place.
fn starts_over(failure: &ApiError) -> bool {
    matches!(failure, ApiError::InvalidResume) || status_of(failure) == Some(416)
}

fn forget_begun(blobs: &Path) {
    let begun = std::fs::read_dir(blobs).into_iter().flatten().flatten();
    for entry in begun.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "part")) {
        _ = std::fs::remove_file(entry.path());
    }
}

/// What trying again cannot mend is an error, and so is what it has not mended.
fn judge(url: &str, failure: &ApiError, is_last: bool) -> Result<(), StoreError> {
    let fail = |what: String| Err(StoreError::Download(format!("{url}: {what}")));
    match (failure, status_of(failure)) {
        (_, Some(status @ (401 | 403))) => Err(StoreError::Gated { url: url.to_owned(), status }),
        (_, Some(404)) => fail("not there (404)".to_owned()),
        (ApiError::IoError(error), _) if !is_network(error) => Err(StoreError::folder(url, error)),
        (ApiError::LockAcquisition(path), _) => {
            fail(format!("{} is held by another process; wait for it", path.display()))
        }
        _ if is_last => fail(failure.to_string()),
        _ => Ok(()),
    }
}

fn status_of(failure: &ApiError) -> Option<u16> {
    match failure {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// A read of the network and a write to the disk come as one kind of error.
fn is_network(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    !matches!(error.kind(), NotFound | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

struct Counting<'a> {
    job: &'a Job<'a>,
    furthest: &'a Cell<u64>,
    come: u64,
}

impl Progress for Counting<'_> {
    fn init(&mut self, _: usize, _: &str) {
        self.come = 0;
    }

    fn update(&mut self, bytes: usize) {
        self.come += bytes as u64;
        self.furthest.set(self.furthest.get().max(self.come));
        self.job.come(self.come);
    }

    fn finish(&mut self) {}
}
