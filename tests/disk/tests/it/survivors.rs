//! Random survivors of a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use unprompt_test_disk::{Disk, Survivors};

use crate::{disk, python, sync, write_durably};

const PAGE: usize = 4096;

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let read = |entry: fs::DirEntry| fs::read(entry.path()).unwrap();
    entries.map(|entry| (entry.file_name().into_string().unwrap(), read(entry))).collect()
}

/// Returns the files that are left after a power cut amid unsynced writes and renames.
fn left(seed: u64) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut disk: Disk = disk()?;
    let file = disk.path().join("overwritten");
    write_durably(&file, vec![1; 64 * PAGE]);
    write_durably(&disk.path().join("appended"), vec![1; 100]);
    OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&[2; 64 * PAGE], 0).unwrap();
    let mut appended = OpenOptions::new().append(true).open(disk.path().join("appended")).unwrap();
    appended.write_all(&[2; 20 * PAGE]).unwrap();
    for name in 0..20 {
        let path = disk.path().join(format!("{name}.tmp"));
        fs::write(&path, "data").unwrap();
        sync(&path);
        fs::rename(&path, path.with_extension("new")).unwrap();
    }
    disk.cut_power(Survivors::Some { seed });
    disk.restore().unwrap();
    Some(contents(disk.path()))
}

#[test]
fn the_same_seed_gives_the_same_survivors_and_another_seed_different_ones() {
    let Some(first) = left(1) else { return };
    assert_eq!(Some(&first), left(1).as_ref());
    assert_ne!(Some(&first), left(2).as_ref());
}

#[test]
fn a_large_write_is_torn_at_page_boundaries() {
    let Some(left) = left(3) else { return };
    let pages: Vec<&[u8]> = left["overwritten"].chunks(PAGE).collect();
    assert_eq!(pages.len(), 64);
    assert!(pages.iter().all(|page| page.iter().all(|byte| *byte == page[0])));
    assert_eq!(pages.iter().map(|page| page[0]).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2]));
}

#[test]
fn a_surviving_length_is_between_the_durable_and_the_written_one() {
    let mut lengths = BTreeSet::new();
    for seed in 0..10 {
        let Some(left) = left(seed) else { return };
        let appended = &left["appended"];
        assert!((100..=100 + 20 * PAGE).contains(&appended.len()));
        assert_eq!(appended[..100], [1; 100]);
        assert!(appended[100..].iter().all(|byte| [0, 2].contains(byte)));
        lengths.insert(appended.len());
    }
    assert!(lengths.len() > 3, "{lengths:?}");
}

#[test]
fn each_rename_survives_completely_or_not_at_all() {
    let Some(left) = left(4) else { return };
    let survived = |name: u32| {
        let names = [format!("{name}.tmp"), format!("{name}.new")].map(|name| left.contains_key(&name));
        assert!(names[0] != names[1], "{name} has both names or none");
        names[1]
    };
    let survived = (0..20).filter(|name| survived(*name)).count();
    assert!((1..20).contains(&survived), "{survived} of 20 renames");
}

#[test]
fn a_file_survives_a_chain_of_dependent_unsynced_changes() {
    for seed in 0..20 {
        let Some(mut disk) = disk() else { return };
        let folder = disk.path().join("folder");
        fs::create_dir(&folder).unwrap();
        write_durably(&folder.join("a"), "precious");
        fs::rename(folder.join("a"), folder.join("b")).unwrap();
        fs::write(folder.join("a"), "other").unwrap();
        fs::create_dir(disk.path().join("new")).unwrap();
        fs::hard_link(folder.join("b"), disk.path().join("c")).unwrap();
        fs::remove_file(folder.join("b")).unwrap();
        fs::remove_file(folder.join("a")).unwrap();
        fs::remove_dir(&folder).unwrap();
        fs::rename(disk.path().join("c"), disk.path().join("new/c")).unwrap();
        disk.cut_power(Survivors::Some { seed });
        disk.restore().unwrap();
        let places = ["folder/a", "folder/b", "c", "new/c"].map(|place| disk.path().join(place));
        let found = places.iter().any(|path| fs::read(path).is_ok_and(|data| data == b"precious"));
        assert!(found, "seed {seed} lost the file");
    }
}

#[test]
fn an_overwritten_file_never_mixes_old_and_new_contents() {
    for seed in 0..20 {
        let Some(mut disk) = disk() else { return };
        let path = disk.path().join("file");
        write_durably(&path, vec![1; 4 * PAGE]);
        fs::write(&path, vec![2; 8 * PAGE]).unwrap();
        disk.cut_power(Survivors::Some { seed });
        disk.restore().unwrap();
        let left = fs::read(&path).unwrap();
        let is_old = left == vec![1; 4 * PAGE];
        assert!(is_old || left.iter().all(|byte| [0, 2].contains(byte)), "seed {seed}");
    }
}

const DIRTY_MAPPING: &str = "
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
view = mmap.mmap(file, 0)
for page in range(64):
    view[page * 4096] = 2
os.write(1, b'done')
time.sleep(600)
";

#[test]
fn some_dirty_pages_of_a_mapping_survive_and_some_are_lost() {
    let Some(mut disk) = disk() else { return };
    let path = disk.path().join("file");
    write_durably(&path, vec![1; 64 * PAGE]);
    let Some(mut change) = python(DIRTY_MAPPING, &[&path]) else { return };
    let mut child = change.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut done = [0; 4];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut done).unwrap();
    disk.cut_power(Survivors::Some { seed: 5 });
    child.kill().unwrap();
    child.wait().unwrap();
    disk.restore().unwrap();
    let left = fs::read(&path).unwrap();
    let first: BTreeSet<u8> = left.chunks(PAGE).map(|page| page[0]).collect();
    assert_eq!(first, BTreeSet::from([1, 2]));
}
