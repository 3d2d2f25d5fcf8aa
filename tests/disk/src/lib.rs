//! A disk of a test that loses power.
//!
//! A [`Disk`] is a file system in memory, mounted with FUSE. It knows for each file and directory
//! what is durable and what was only written, and forgets the latter when the power is cut, as
//! ext4, XFS and Btrfs would:
//!
//! * `fsync`, `fdatasync`, `msync(MS_SYNC)` and writes with `O_SYNC` or `O_DSYNC` make the whole
//!   contents of a file durable, its pending creation or rename, and directories above it that were
//!   never durable;
//! * `fsync` of a directory makes its entries durable. Until then a power cut undoes changes of
//!   entries, and a name that was removed or replaced is back with its durable contents;
//! * a rename is atomic, and no change survives without those that it builds on.
//!
//! Owners, modes and times survive a cut as they are. `sync` and `syncfs` make nothing durable, and
//! pages that a process mapped stay readable to it without power. Only files, directories and
//! symbolic links exist; there are no extended attributes.
//!
//! It must not know which program keeps its data there.

mod changes;
mod contents;
mod file;
mod mounting;
mod requests;
mod rules;
mod tree;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{getegid, geteuid};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use mounting::{Mount, Watchdog};
use requests::Powered;
use rules::{Rules, Synced};
use tree::{Meta, Tree};

/// What a power cut leaves of writes and directory changes that were not synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Survivors {
    /// Nothing.
    OnlySynced,
    /// A random part. Each page of 4096 bytes survives or not, so writes are torn and reordered;
    /// so does each change of a directory that builds on no lost one. A length that grew becomes
    /// one between the durable and the lost one. The same seed and the same operations leave the
    /// same disk.
    Some { seed: u64 },
}

/// A mounted disk. Dropping it unmounts and forgets it, even if processes still use it.
#[derive(Debug)]
pub struct Disk {
    mount: Option<Mount>,
    powered: Powered,
    /// What the disk holds while it has no power.
    kept: Mutex<Option<Tree>>,
    rules: Arc<Rules>,
    _watchdog: Watchdog,
    /// Dropped after `mount`: removing it must not remove what a process sees there.
    folder: TempDir,
}

impl Disk {
    /// Mounts an empty disk on a new folder.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied` or `Unsupported` if this machine mounts no FUSE file system;
    /// a test is then skipped with the error as the reason.
    pub fn mount() -> io::Result<Self> {
        let folder = TempDir::with_prefix("unprompt-disk-")?;
        let top = Meta::new(0o755, geteuid().as_raw(), getegid().as_raw());
        let mut disk = Self {
            mount: None,
            powered: Powered::default(),
            kept: Mutex::new(Some(Tree::new(top))),
            rules: Arc::default(),
            _watchdog: Watchdog::start(folder.path())?,
            folder,
        };
        disk.restore()?;
        Ok(disk)
    }

    /// The folder it is mounted on; the same after each [`Self::restore`].
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Cuts the power: what was not durable is forgotten except for the survivors, and operations
    /// that reach the disk fail with EIO from now on.
    ///
    /// # Panics
    /// If the power is cut already.
    pub fn cut_power(&self, survivors: Survivors) {
        let luck = match survivors {
            Survivors::OnlySynced => None,
            Survivors::Some { seed } => {
                self.write_back();
                Some(ChaCha8Rng::seed_from_u64(seed))
            }
        };
        let tree = self.powered.lock().take().expect("the power is on");
        *self.kept.lock() = Some(tree.after_power_cut(luck));
    }

    /// Lets the kernel write the dirty pages of mappings, which may then survive like other writes.
    fn write_back(&self) {
        let files = self.powered.lock().as_ref().map(Tree::file_paths).unwrap_or_default();
        for file in files {
            // Closing a file writes its dirty pages and waits for them, unlike syncfs. Pages that
            // cannot be written, on a full disk, are lost anyway.
            let _ = File::open(self.path().join(file.trim_start_matches('/')));
        }
    }

    /// Mounts what survived a power cut on the same path, with nothing cached. Processes that still
    /// hold files of before open get errors.
    ///
    /// # Panics
    /// If the power is on.
    pub fn restore(&mut self) -> io::Result<()> {
        let tree = self.kept.lock().take().expect("the power is cut");
        self.mount = None;
        self.powered = Arc::new(Mutex::new(Some(tree)));
        let (powered, rules) = (Arc::clone(&self.powered), Arc::clone(&self.rules));
        self.mount = Some(Mount::new(self.folder.path(), powered, rules)?);
        Ok(())
    }

    /// Makes the disk full, or not full any more. While it is full, a write that needs a new page,
    /// `fallocate` and a new entry of a directory fail with ENOSPC.
    pub fn fill(&self, full: bool) {
        self.rules.fill(full);
    }

    /// Acknowledges syncs of files whose path ends with `suffix`, but does nothing: proves that a
    /// test notices a missing `fsync`. The path begins with `/` at the top of the disk.
    pub fn ignore_syncs_of(&self, suffix: impl Into<String>) {
        self.rules.ignore(Synced::File, suffix.into());
    }

    /// [`Self::ignore_syncs_of`] for directories; the top one is `/`.
    pub fn ignore_folder_syncs_of(&self, suffix: impl Into<String>) {
        self.rules.ignore(Synced::Folder, suffix.into());
    }

    /// Ends what the two methods above began.
    pub fn ignore_no_syncs(&self) {
        self.rules.ignore_nothing();
    }

    /// The syncs so far, ignored ones too, of files and directories whose path ended with `suffix`.
    pub fn syncs_of(&self, suffix: &str) -> u64 {
        self.rules.syncs_of(suffix)
    }
}
