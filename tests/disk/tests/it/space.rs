//! A full disk, and the space that files occupy.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use crate::{disk, lose_power};

fn is_full<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::ENOSPC))
}

fn free_blocks(path: &Path) -> u64 {
    statvfs(path).unwrap().blocks_available()
}

#[test]
fn a_full_disk_refuses_new_pages_and_new_entries_and_nothing_else() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    fs::write(&path, "data").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    disk.fill(true);
    assert_eq!(free_blocks(disk.path()), 0);
    assert!(is_full(file.write_at(b"more", 4096)));
    assert!(is_full(fallocate(&file, FallocateFlags::empty(), 0, 9000).map_err(io::Error::from)));
    assert!(is_full(File::create(disk.path().join("other"))));
    assert!(is_full(fs::create_dir(disk.path().join("folder"))));
    file.write_all_at(b"DATA", 0).unwrap();
    file.sync_all().unwrap();
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(&path).unwrap(), "DATA");
    disk.fill(false);
    assert!(free_blocks(disk.path()) > 0);
    File::create(disk.path().join("other")).unwrap().write_all(b"more").unwrap();
}

#[test]
fn allocated_pages_can_be_written_when_the_disk_is_full() {
    let Some(disk) = disk() else { return };
    let file = File::create(disk.path().join("file")).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 9000).unwrap();
    assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().blocks()), (9000, 24));
    disk.fill(true);
    file.write_all_at(&[1; 9000], 0).unwrap();
}

#[test]
fn a_punched_hole_reads_as_zeros_and_frees_its_pages() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    fs::write(&path, vec![1; 5 * 4096]).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 4000, 9000).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 20_000, 1000).unwrap();
    file.sync_all().unwrap();
    let mut expected = vec![1; 5 * 4096];
    expected.resize(21_000, 0);
    expected[4000..13_000].fill(0);
    expected[20_000..].fill(0);
    assert_eq!(fs::read(&path).unwrap(), expected);
    assert_eq!(file.metadata().unwrap().blocks(), 4 * 8);
    drop(file);
    lose_power(&mut disk);
    assert_eq!(fs::read(&path).unwrap(), expected);
}

#[test]
fn hundreds_of_megabytes_can_be_copied() {
    let Some(disk) = disk() else { return };
    let (from, to) = (disk.path().join("from"), disk.path().join("to"));
    let started = std::time::Instant::now();
    let mut file = File::create(&from).unwrap();
    for block in 0..200u8 {
        file.write_all(&vec![block; 1 << 20]).unwrap();
    }
    file.sync_all().unwrap();
    let written = started.elapsed();
    fs::copy(&from, &to).unwrap();
    println!("200 MiB written in {written:?}, copied in {:?}", started.elapsed() - written);
    assert!(Command::new("cmp").args([&from, &to]).status().unwrap().success());
}
