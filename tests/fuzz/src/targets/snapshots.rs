//! Snapshots of the index.

use std::ops::Range;

use sha2::{Digest, Sha256};
use unprompt_index::SnapshotReader;

use crate::Target;

/// The limit that the reader promises, whatever the file holds.
const BASE_BYTES: u64 = 400 << 20;
/// The footer is parsed to a tree.
const FACTOR: u64 = 256;

/// A snapshot file. Its checksum is made right first, since rows are not read otherwise.
pub const SNAPSHOT: Target = Target {
    name: "snapshot",
    run: |input| {
        let file = tempfile::NamedTempFile::new().expect("there is room for a file");
        std::fs::write(file.path(), signed(input)).expect("there is room for a file");
        let Ok(reader) = SnapshotReader::open(file.path()) else { return };
        let (info, mut points) = (reader.info().clone(), 0);
        for batch in reader {
            let Ok(batch) = batch else { return };
            assert!(
                batch.iter().all(|point| point.clip.len() == info.clip_dim),
                "a vector has another length"
            );
            points += batch.len() as u64;
        }
        assert_eq!(points, info.points, "it has other rows than it says");
    },
    seeds: || {
        let golden = include_bytes!("../../../../index/tests/golden/snapshot.1.parquet");
        vec![golden.to_vec(), golden[golden.len() / 2..].to_vec()]
    },
    memory_bytes: |length| BASE_BYTES + FACTOR * length as u64,
};

/// Writes the checksum of the rows into a snapshot's metadata; returns other bytes as they are.
fn signed(input: &[u8]) -> Vec<u8> {
    let mut signed = input.to_vec();
    if let Some((place, length)) = checksum(input) {
        let sum = format!("{:x}", Sha256::digest(&input[..length.min(input.len())]));
        signed[place].copy_from_slice(sum.as_bytes());
    }
    signed
}

/// The place of the checksum in the file, and the number of bytes that it covers.
fn checksum(input: &[u8]) -> Option<(Range<usize>, usize)> {
    let after = |bytes: &[u8], from: usize| {
        let found = input.get(from..)?.windows(bytes.len()).rposition(|window| window == bytes)?;
        Some(from + found + bytes.len())
    };
    let begin = after(br#""sha256":""#, 0)?;
    let digits = input.get(after(br#""bytes":"#, begin)?..)?;
    let digits = digits.split(|byte| !byte.is_ascii_digit()).next()?;
    let length = str::from_utf8(digits).ok()?.parse().ok()?;
    (begin + 64 <= input.len()).then_some((begin..begin + 64, length))
}
