//! Locks the data directory for one process at a time; a second process is told who has it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::StreamError;

const LOCK_FILE: &str = "unprompt.lock";
/// The attempts to take a lock that another process has, and the pause between them.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A data directory that this process holds until the value is dropped or the process
/// ends, in whatever way.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
    holder: String,
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it. `holder` tells a second process what
    /// this one is, for example `unprompt up`; the process id and start time are added.
    ///
    /// # Errors
    ///
    /// [`StreamError::DataDirInUse`] names the holder.
    pub fn lock(path: &Path, holder: &str) -> Result<Self, StreamError> {
        let failed = |source| StreamError::DataDir { path: path.to_owned(), source };
        create(path).map_err(failed)?;
        let file = path.join(LOCK_FILE);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file);
        let mut lock = opened.map_err(failed)?;
        // Somebody who looks whether it is held has it for a moment.
        let mut tried = lock.try_lock();
        for _ in 0..LOCK_ATTEMPTS {
            if !matches!(tried, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOCK_PAUSE);
            tried = lock.try_lock();
        }
        match tried {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StreamError::DataDirInUse {
                    path: path.to_owned(),
                    holder: read_holder(&mut lock),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let now = jiff::Timestamp::now();
        let holder = format!(
            "{holder} (process {}, since {})",
            std::process::id(),
            now.strftime("%Y-%m-%d %H:%M:%S UTC")
        );
        let mut dir = Self { path: path.to_owned(), lock, holder };
        dir.write("")?;
        Ok(dir)
    }

    /// Returns whether the process `pid` holds the directory now. An address that it left there
    /// may belong to another process once it has ended.
    pub fn is_held_by(path: &Path, pid: u32) -> bool {
        let Ok(mut lock) = OpenOptions::new().read(true).open(path.join(LOCK_FILE)) else { return false };
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => read_holder(&mut lock).contains(&format!("(process {pid},")),
            Ok(()) | Err(TryLockError::Error(_)) => false,
        }
    }

    /// Adds the addresses at which this process can be reached, once they are known.
    pub fn announce(&mut self, addresses: &[(&str, String)]) -> Result<(), StreamError> {
        let listed: Vec<String> =
            addresses.iter().map(|(name, address)| format!("{name} {address}")).collect();
        self.write(&listed.join(", "))
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, addresses: &str) -> Result<(), StreamError> {
        let separator = if addresses.is_empty() { "" } else { ", at " };
        let text = format!("{}{separator}{addresses}", self.holder);
        let written = self
            .lock
            .set_len(0)
            .and_then(|()| self.lock.seek(SeekFrom::Start(0)))
            .and_then(|_| self.lock.write_all(text.as_bytes()))
            .and_then(|()| self.lock.sync_all());
        written.map_err(|source| StreamError::DataDir { path: self.path.clone(), source })
    }
}

/// Creates a data directory, for this user only: its broker, its index and its heads have no
/// passwords.
///
/// # Errors
/// Those of the file system.
pub fn create(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn read_holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.read_to_string(&mut text) {
        Ok(_) if !text.is_empty() => text,
        _ => "another process".to_owned(),
    }
}
