//! Random operations do the same on the disk and in a plain folder.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use unprompt_test_disk::Survivors;

use crate::{disk, sync};

const FILES: u32 = 4;
const LONGEST: u64 = 70_000;

#[derive(Debug)]
enum Operation {
    Write { file: String, offset: u64, data: Vec<u8> },
    Read { file: String, offset: u64, size: usize },
    Truncate { file: String, len: u64 },
    Rename { from: String, to: String },
    Remove { file: String },
    Sync { file: String },
}

fn random(rng: &mut ChaCha8Rng) -> Operation {
    let mut name = || format!("file-{}", rng.random_range(0..FILES));
    let (file, to) = (name(), name());
    let offset = rng.random_range(0..LONGEST);
    match rng.random_range(0..20) {
        0..8 => {
            let data = vec![rng.random(); rng.random_range(1..20_000)];
            Operation::Write { file, offset, data }
        }
        8..14 => Operation::Read { file, offset, size: rng.random_range(1..20_000) },
        14..16 => Operation::Truncate { file, len: offset },
        16 => Operation::Rename { from: file, to },
        17 => Operation::Remove { file },
        _ => Operation::Sync { file },
    }
}

/// Applies the operation in the folder and returns the bytes that it read.
fn apply(operation: &Operation, folder: &Path) -> io::Result<Vec<u8>> {
    let open = |file| OpenOptions::new().read(true).write(true).open(folder.join(file));
    match operation {
        Operation::Write { file, offset, data } => {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(file))?;
            file.write_all_at(data, *offset)?;
        }
        Operation::Read { file, offset, size } => {
            let mut read = vec![0; *size];
            let count = open(file)?.read_at(&mut read, *offset)?;
            read.truncate(count);
            return Ok(read);
        }
        Operation::Truncate { file, len } => open(file)?.set_len(*len)?,
        Operation::Rename { from, to } => fs::rename(folder.join(from), folder.join(to))?,
        Operation::Remove { file } => fs::remove_file(folder.join(file))?,
        Operation::Sync { file } => open(file)?.sync_all()?,
    }
    Ok(Vec::new())
}

fn files(folder: &Path) -> Vec<Option<Vec<u8>>> {
    (0..FILES).map(|file| fs::read(folder.join(format!("file-{file}"))).ok()).collect()
}

fn sync_all(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        sync(&entry.unwrap().path());
    }
    sync(folder);
}

#[test]
fn random_operations_do_the_same_as_in_a_plain_folder() {
    let Some(mut disk) = disk() else { return };
    let plain = tempfile::tempdir().unwrap();
    for seed in 0..8 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for step in 0..400 {
            let operation = random(&mut rng);
            let [here, there] = [disk.path(), plain.path()]
                .map(|folder| apply(&operation, folder).map_err(|error| error.raw_os_error()));
            assert!(here == there, "seed {seed}, step {step}: {operation:?} differs");
        }
        assert!(files(disk.path()) == files(plain.path()), "seed {seed} leaves other files");
        sync_all(disk.path());
        disk.cut_power(Survivors::OnlySynced);
        disk.restore().unwrap();
        assert!(files(disk.path()) == files(plain.path()), "seed {seed} loses synced files");
    }
}

#[test]
fn synced_files_are_unchanged_whichever_later_operations_survive() {
    for seed in 0..8 {
        let Some(mut disk) = disk() else { return };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..100 {
            let _ = apply(&random(&mut rng), disk.path());
        }
        sync_all(disk.path());
        let kept = files(disk.path());
        fs::write(disk.path().join("other"), vec![1; 100_000]).unwrap();
        disk.cut_power(Survivors::Some { seed });
        disk.restore().unwrap();
        assert!(files(disk.path()) == kept, "seed {seed} changes synced files");
    }
}
