//! File system operations that programs need, other than durability.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::{disk, lose_power, sync};

#[test]
fn an_unlinked_file_works_while_it_is_open() {
    let Some(disk) = disk() else { return };
    let path = disk.path().join("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all_at(b"data", 0).unwrap();
    file.sync_all().unwrap();
    let mut read = String::new();
    (&file).read_to_string(&mut read).unwrap();
    assert_eq!((read.as_str(), file.metadata().unwrap().nlink()), ("data", 0));
}

#[test]
fn synced_links_survive_a_power_cut() {
    let Some(mut disk) = disk() else { return };
    let [file, hard, soft] = ["file", "hard", "soft"].map(|name| disk.path().join(name));
    fs::write(&file, "data").unwrap();
    fs::hard_link(&file, &hard).unwrap();
    symlink("hard", &soft).unwrap();
    sync(&file);
    sync(disk.path());
    lose_power(&mut disk);
    assert_eq!(fs::read_link(&soft).unwrap().to_str(), Some("hard"));
    assert_eq!(fs::read_to_string(&soft).unwrap(), "data");
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 2);
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::metadata(&hard).unwrap().nlink(), 1);
}

#[test]
fn a_rename_replaces_exchanges_or_refuses() {
    let Some(disk) = disk() else { return };
    let [a, b] = ["a", "b"].map(|name| disk.path().join(name));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    let rename = |flags| renameat2(AT_FDCWD, &a, AT_FDCWD, &b, flags);
    assert_eq!(rename(RenameFlags::RENAME_NOREPLACE), Err(nix::errno::Errno::EEXIST));
    assert_eq!(rename(RenameFlags::RENAME_WHITEOUT), Err(nix::errno::Errno::EINVAL));
    rename(RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read_to_string(&a).unwrap(), fs::read_to_string(&b).unwrap()), ("b".into(), "a".into()));
    fs::rename(&a, &b).unwrap();
    assert_eq!((a.exists(), fs::read_to_string(&b).unwrap()), (false, "b".into()));
}

#[test]
fn a_directory_with_entries_is_neither_removed_nor_replaced() {
    let Some(disk) = disk() else { return };
    let [full, other] = ["full", "other"].map(|name| disk.path().join(name));
    fs::create_dir_all(full.join("sub")).unwrap();
    fs::create_dir(&other).unwrap();
    assert_eq!(fs::remove_dir(&full).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(fs::rename(&other, &full).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs::rename(&full, &other).unwrap();
    assert!(other.join("sub").is_dir() && !full.exists());
}

#[test]
fn a_big_directory_can_be_listed_and_removed() {
    let Some(disk) = disk() else { return };
    let folder = disk.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for name in 0..2_000 {
        File::create(folder.join(format!("a name that takes some room {name}"))).unwrap();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2_000);
    fs::remove_dir_all(&folder).unwrap();
    assert!(!folder.exists());
}

#[test]
fn modes_and_times_can_be_set() {
    let Some(disk) = disk() else { return };
    let path = disk.path().join("file");
    let file = File::create(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
    file.set_modified(then).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.modified().unwrap()), (0o640, then));
}

#[test]
fn locks_exclude_other_opens() {
    let Some(disk) = disk() else { return };
    let open = || OpenOptions::new().write(true).create(true).truncate(false).open(disk.path().join("lock"));
    let (first, second) = (open().unwrap(), open().unwrap());
    first.lock().unwrap();
    assert!(second.try_lock().is_err());
    drop(first);
    second.try_lock().unwrap();
}
