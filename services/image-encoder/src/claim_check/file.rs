//! Pictures in local or mounted folders.
//!
//! The check applies to the opened file, not to its path: a symbolic link must not lead out of the
//! allowed folder, not even one created between the check and the opening.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::failure::{FetchFailure, codes};
use super::limits::{Body, within};
use super::location::Location;

/// Bytes per read.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub struct FileSource {
    max_bytes: usize,
    /// Limits the reading threads: a network file system may block its readers for ever.
    readers: Arc<Semaphore>,
}

impl FileSource {
    pub fn new(max_bytes: usize, readers: usize) -> Self {
        Self { max_bytes, readers: Arc::new(Semaphore::new(readers)) }
    }

    /// Reads a file in the folder `allowed`.
    pub async fn fetch(
        &self,
        location: &Location,
        allowed: &Location,
        deadline: Instant,
    ) -> Result<Vec<u8>, FetchFailure> {
        let (at, folder, max_bytes) = (location.clone(), allowed.path(), self.max_bytes);
        self.on_thread(location, deadline, move || read(&at, &folder, max_bytes)).await
    }

    /// Returns whether the folder exists.
    pub async fn answers(&self, allowed: &Location, deadline: Instant) -> bool {
        let folder = allowed.path();
        self.on_thread(allowed, deadline, move || Ok(folder.is_dir())).await.unwrap_or(false)
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        at: &Location,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, FetchFailure> + Send + 'static,
    ) -> Result<T, FetchFailure> {
        let reading = async {
            // The thread holds the permit, since it may outlive the deadline.
            let reader = self.readers.clone().acquire_owned().await;
            let worked = spawn_blocking(move || {
                let _reader = reader;
                work()
            });
            worked.await.unwrap_or_else(|error| Err(FetchFailure::outage(at, error.to_string())))
        };
        within(deadline, at, reading).await
    }
}

fn read(at: &Location, folder: &Path, max_bytes: usize) -> Result<Vec<u8>, FetchFailure> {
    // A missing folder is a disk that is not mounted, so none of its pictures is to blame.
    let folder = folder
        .canonicalize()
        .map_err(|error| FetchFailure::outage(at, format!("{}: {error}", folder.display())))?;
    let path = at.path().canonicalize().map_err(|error| failed(at, &error))?;
    check_inside(at, &path, &folder)?;
    let file = open(&path).map_err(|error| failed(at, &error))?;
    let opened = path_of(&file, &path).map_err(|error| failed(at, &error))?;
    check_inside(at, &opened, &folder)?;
    read_open(at, file, max_bytes)
}

fn check_inside(at: &Location, path: &Path, folder: &Path) -> Result<(), FetchFailure> {
    match path.starts_with(folder) {
        true => Ok(()),
        false => Err(FetchFailure::refused(
            codes::NOT_ALLOWED,
            format!(
                "{at} is a link that leads out of the folder that [claim_check] allow lists; put the file itself there"
            ),
        )),
    }
}

/// Opens a file; if it is a pipe, does not wait for a writer.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(target_os = "linux")]
fn path_of(file: &File, _: &Path) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Other systems have no such simple way to ask the kernel: resolves the path again.
#[cfg(not(target_os = "linux"))]
fn path_of(_: &File, path: &Path) -> io::Result<PathBuf> {
    path.canonicalize()
}

fn read_open(at: &Location, mut file: File, max_bytes: usize) -> Result<Vec<u8>, FetchFailure> {
    let metadata = file.metadata().map_err(|error| failed(at, &error))?;
    if !metadata.is_file() {
        return Err(FetchFailure::not_found(at, "not a file"));
    }
    let mut body = Body::new(at, Some(metadata.len()), max_bytes)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return body.finish(),
            Ok(bytes) => body.push(&chunk[..bytes])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(at, &error)),
        }
    }
}

fn failed(at: &Location, error: &io::Error) -> FetchFailure {
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::InvalidFilename => FetchFailure::not_found(at, &error.to_string()),
        _ if error.raw_os_error() == Some(libc::ELOOP) => FetchFailure::not_found(at, &error.to_string()),
        _ => FetchFailure::outage(at, format!("{at}: {error}")),
    }
}
