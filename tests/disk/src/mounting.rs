//! Mounts the file system and unmounts it, whatever still uses it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption};
use nix::mount::{MntFlags, umount2};

use crate::requests::{Powered, Requests};
use crate::rules::Rules;

/// Names our mounts in `/proc/self/mounts`, before the id of the process that answers for one.
const SOURCE: &str = "unprompt-test-disk:";

/// A mounted file system, which is unmounted when this is dropped.
#[derive(Debug)]
pub struct Mount {
    folder: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mount {
    pub fn new(folder: &Path, powered: Powered, rules: Arc<Rules>) -> io::Result<Self> {
        let mut config = Config::default();
        let source = format!("{SOURCE}{}", std::process::id());
        config.mount_options = vec![MountOption::FSName(source), MountOption::DefaultPermissions];
        let session =
            fuser::spawn_mount(Requests::new(powered, rules), folder, &config).map_err(explained)?;
        Ok(Self { folder: folder.to_owned(), session: Some(session) })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        if force_unmount(&self.folder).is_ok() {
            // The kernel ended the connection, and so its thread ends.
            let _ = session.join();
        }
        // Without the right to do so, dropping the session asks fusermount3.
    }
}

/// Ends the connection, so that processes which hold files open fail, and detaches the mount.
fn force_unmount(folder: &Path) -> nix::Result<()> {
    umount2(folder, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH)
}

/// Unmounts the disk of a process that ended without doing so: killed, or by `exit`.
///
/// A thread of it that waits for an answer of the disk cannot end, nor close the connection. The
/// process then stays until the connection is ended from outside.
#[derive(Debug)]
pub struct Watchdog(Child);

/// Waits until the process `$1` ends and unmounts the folder `$2`. A process that has begun to end
/// has no command line any more. Signals to its group must not end the watchdog.
const WATCH: &str = r#"
trap '' HUP INT QUIT TERM
while grep -q . "/proc/$1/cmdline"; do sleep 1; done
umount -f -l "$2" || fusermount3 -u -z "$2"
rmdir "$2"
"#;

impl Watchdog {
    pub fn start(folder: &Path) -> io::Result<Self> {
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watchdog", &std::process::id().to_string()]).arg(folder);
        watch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        watch.spawn().map(Self)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn explained(error: io::Error) -> io::Error {
    let kind = match error.kind() {
        kind @ (ErrorKind::NotFound | ErrorKind::PermissionDenied) => kind,
        _ => ErrorKind::Unsupported,
    };
    let help = "load the module `fuse` or give the container /dev/fuse; \
                run as root with CAP_SYS_ADMIN, or install fusermount3 (the package fuse3)";
    io::Error::new(kind, format!("no FUSE file system can be mounted ({error}): {help}"))
}
