//! Makes acknowledged records survive a power cut.
//!
//! nisshi runs SQLite with `synchronous = normal`: a transaction is in the write-ahead log, but the
//! log is on the disk only after the next checkpoint. So the log is synced here before a record is
//! acknowledged. Requests that arrive during a sync share the next one.
//!
//! After a failed sync, a later one may succeed although the kernel has dropped the first one's
//! pages. So nothing more is acknowledged and the broker stops; its next start reads what the log
//! actually holds.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The write-ahead log of the broker's database. Clones share the syncs.
#[derive(Clone, Debug)]
pub(crate) struct WalSync {
    path: Arc<PathBuf>,
    /// The number of the last write that waits for a sync.
    written: Arc<AtomicU64>,
    /// The number of the last write that is synced.
    synced: Arc<Mutex<u64>>,
    /// Cancelled by the first sync that fails.
    failed: CancellationToken,
}

impl WalSync {
    /// `database` is the path of the database file.
    pub fn of(database: &std::path::Path) -> Self {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        Self {
            path: Arc::new(wal.into()),
            written: Arc::default(),
            synced: Arc::default(),
            failed: CancellationToken::new(),
        }
    }

    /// Waits until everything that was written before this call is on the disk.
    ///
    /// # Errors
    /// Those of the file system. Every later call fails, too.
    pub async fn sync(&self) -> io::Result<()> {
        let write = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = self.synced.lock().await;
        if *synced >= write {
            return Ok(());
        }
        if self.failed.is_cancelled() {
            return Err(io::Error::other("an earlier sync has failed"));
        }
        let upto = self.written.load(Ordering::SeqCst);
        let path = Arc::clone(&self.path);
        let done = tokio::task::spawn_blocking(move || sync_file(&path)).await;
        match done.map_err(io::Error::other).flatten() {
            Ok(()) => *synced = upto,
            Err(error) => {
                self.failed.cancel();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits until a sync fails.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }
}

/// Syncs the log. After a checkpoint has closed it, the log does not exist; its content is then in
/// the database, which the checkpoint has synced.
fn sync_file(path: &std::path::Path) -> io::Result<()> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file?.sync_data(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn concurrent_writes_are_all_covered_by_a_sync() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("db");
        let wal = WalSync::of(&database);
        wal.sync().await.unwrap();
        std::fs::write(folder.path().join("db-wal"), "frames").unwrap();
        let writes: Vec<_> = (0..50)
            .map(|_| {
                let wal = wal.clone();
                tokio::spawn(async move { wal.sync().await })
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
        assert_eq!(*wal.synced.lock().await, 51);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_synced_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("db-wal")).unwrap();
        let database = folder.path().join("db");
        // Opening a folder succeeds, so the failing case is a path below a regular file.
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(WalSync::of(&folder.path().join("file/db")).sync().await.is_err());
        WalSync::of(&database).sync().await.unwrap();
    }

    #[tokio::test]
    async fn every_sync_after_a_failed_one_fails() {
        let folder = tempfile::tempdir().unwrap();
        let (wal, log) = (WalSync::of(&folder.path().join("db")), folder.path().join("db-wal"));
        // A device cannot be synced.
        std::os::unix::fs::symlink("/dev/null", &log).unwrap();
        assert!(wal.sync().await.is_err());
        std::fs::remove_file(&log).unwrap();
        std::fs::write(&log, "frames").unwrap();
        assert!(wal.sync().await.is_err());
        wal.failed().await;
    }
}
