//! What is durable, and when.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use unprompt_test_disk::Survivors;

use crate::{disk, lose_power, python, sync, write_durably};

#[test]
fn a_synced_write_is_kept_and_a_later_one_is_lost() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    write_durably(&path, "kept");
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    (&file).write_all(b" and lost").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept and lost");
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
}

#[test]
fn a_new_file_that_was_never_synced_is_gone() {
    let Some(mut disk) = disk() else { return };
    fs::write(disk.path().join("file"), "data").unwrap();
    lose_power(&mut disk);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[test]
fn a_new_file_whose_directory_alone_was_synced_is_empty() {
    let Some(mut disk) = disk() else { return };
    fs::write(disk.path().join("file"), "data").unwrap();
    sync(disk.path());
    lose_power(&mut disk);
    assert_eq!(fs::read(disk.path().join("file")).unwrap(), b"");
}

#[test]
fn a_synced_new_file_keeps_its_name_and_the_directories_above() {
    let Some(mut disk) = disk() else { return };
    let folder = disk.path().join("a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("other"), "lost").unwrap();
    fs::write(folder.join("file"), "kept").unwrap();
    sync(&folder.join("file"));
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "kept");
    assert!(!folder.join("other").exists());
}

#[test]
fn a_rename_is_lost_until_its_directory_is_synced() {
    let Some(mut disk) = disk() else { return };
    let (old, new) = (disk.path().join("new.tmp"), disk.path().join("name"));
    write_durably(&new, "before");
    write_durably(&old, "after");
    fs::rename(&old, &new).unwrap();
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(&new).unwrap(), "before");
    assert_eq!(fs::read_to_string(&old).unwrap(), "after");
    fs::rename(&old, &new).unwrap();
    sync(disk.path());
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(&new).unwrap(), "after");
    assert!(!old.exists());
}

#[test]
fn a_rename_to_another_directory_never_leaves_both_names_or_none() {
    let Some(mut disk) = disk() else { return };
    let (from, to) = (disk.path().join("from"), disk.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    write_durably(&from.join("file"), "data");
    fs::rename(from.join("file"), to.join("file")).unwrap();
    sync(&from);
    lose_power(&mut disk);
    assert!(!from.join("file").exists());
    assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "data");
}

#[test]
fn a_removal_is_lost_until_its_directory_is_synced() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    write_durably(&path, "data");
    fs::remove_file(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap_err().kind(), ErrorKind::NotFound);
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    fs::remove_file(&path).unwrap();
    sync(disk.path());
    lose_power(&mut disk);
    assert!(!path.exists());
}

#[test]
fn an_unsynced_directory_removal_is_undone_with_its_files() {
    let Some(mut disk) = disk() else { return };
    let folder = disk.path().join("folder");
    fs::create_dir(&folder).unwrap();
    write_durably(&folder.join("file"), "data");
    fs::remove_dir_all(&folder).unwrap();
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "data");
    fs::rename(folder.join("file"), disk.path().join("file")).unwrap();
    fs::remove_dir(&folder).unwrap();
    sync(disk.path());
    lose_power(&mut disk);
    assert!(!folder.exists());
    assert_eq!(fs::read_to_string(disk.path().join("file")).unwrap(), "data");
}

#[test]
fn a_truncation_is_lost_until_the_file_is_synced() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    write_durably(&path, vec![7; 10_000]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(5_000).unwrap();
    drop(file);
    lose_power(&mut disk);
    assert_eq!(fs::read(&path).unwrap(), vec![7; 10_000]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(5_000).unwrap();
    file.sync_data().unwrap();
    file.set_len(10_000).unwrap();
    file.sync_data().unwrap();
    lose_power(&mut disk);
    let mut expected = vec![7; 5_000];
    expected.resize(10_000, 0);
    assert_eq!(fs::read(&path).unwrap(), expected);
}

#[test]
fn a_write_with_o_dsync_is_durable() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    let mut options = OpenOptions::new();
    let file = options.create_new(true).write(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    file.write_all_at(b"data", 0).unwrap();
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

/// Maps a file, changes its second page, and syncs the mapping if there is a second argument.
const CHANGE_MAPPING: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
view = mmap.mmap(file, 0)
view[4096:4100] = b'new!'
if len(sys.argv) > 2:
    view.flush()
os.write(1, b'done')
os._exit(0)
";

#[test]
fn a_change_of_a_mapping_is_lost_until_it_is_synced() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    write_durably(&path, vec![b'-'; 8192]);
    for (synced, expected) in [(false, b"----"), (true, b"new!")] {
        let mut arguments = vec![path.as_path()];
        arguments.extend(synced.then_some(path.as_path()));
        let Some(mut change) = python(CHANGE_MAPPING, &arguments) else { return };
        assert_eq!(change.output().unwrap().stdout, b"done");
        assert_eq!(&fs::read(&path).unwrap()[4096..4100], b"new!");
        lose_power(&mut disk);
        assert_eq!(&fs::read(&path).unwrap()[4096..4100], expected, "synced: {synced}");
    }
}

#[test]
fn ignored_syncs_succeed_and_are_counted_but_make_nothing_durable() {
    let Some(mut disk) = disk() else { return };
    let (log, data) = (disk.path().join("db-wal"), disk.path().join("db"));
    disk.ignore_syncs_of("-wal");
    disk.ignore_folder_syncs_of("/");
    write_durably(&log, "log");
    write_durably(&data, "data");
    assert_eq!((disk.syncs_of("/db-wal"), disk.syncs_of("/db"), disk.syncs_of("/")), (1, 1, 2));
    lose_power(&mut disk);
    assert!(!log.exists());
    assert_eq!(fs::read_to_string(&data).unwrap(), "data");
    disk.ignore_no_syncs();
    write_durably(&log, "log");
    lose_power(&mut disk);
    assert_eq!(fs::read_to_string(&log).unwrap(), "log");
}

#[test]
fn operations_fail_without_power_and_old_handles_stay_invalid() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    write_durably(&path, "data");
    let before = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    before.write_all_at(b"lost", 0).unwrap();
    disk.cut_power(Survivors::OnlySynced);
    let failures = [
        before.write_all_at(b"more", 0),
        before.sync_all(),
        File::open(&path).map(drop),
        fs::metadata(&path).map(drop),
        fs::read_dir(disk.path()).map(drop),
        fs::create_dir(disk.path().join("folder")),
    ];
    for failure in failures {
        assert_eq!(failure.unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    disk.restore().unwrap();
    assert!(before.write_all_at(b"more", 0).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}
