//! No mount outlives its test.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::disk;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_dropped_disk_is_unmounted_despite_an_open_file_and_a_panic() {
    let Some(disk) = disk() else { return };
    let path = disk.path().to_owned();
    let open = File::create(path.join("file")).unwrap();
    let ended = std::thread::spawn(move || {
        let _disk = disk;
        // Without the message of a panic.
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(ended.join().is_err());
    assert!(!path.exists());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()));
    assert!(open.sync_all().is_err());
}

/// Returns whether a disk of the process is mounted.
fn has_mount(process: u32) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.starts_with(&format!("unprompt-test-disk:{process} ")))
}

fn wait_until(what: &str, is_done: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < PATIENCE, "{what} takes more than {PATIENCE:?}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_killed_test_ends_and_its_disk_is_unmounted() {
    if disk().is_none() {
        return;
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "space::hundreds_of_megabytes_can_be_copied"]).stdout(Stdio::null());
    for running_ms in [0, 100, 200, 400] {
        let mut child = test.spawn().unwrap();
        wait_until("a mount", || has_mount(child.id()));
        sleep(Duration::from_millis(running_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("unmounting", || !has_mount(child.id()));
    }
}
