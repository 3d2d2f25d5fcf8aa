//! Marks the segments whose files are all durable.
//!
//! Edge recognises a complete segment by its `version.info`, which it syncs before the other files
//! are synced. A power cut in between leaves a segment that edge cannot open. No write in it
//! was acknowledged, because acknowledgements follow [`sync`], and the log still has the writes,
//! because [`sync_unmarked`] precedes every flush. So a segment without a mark is left out if a
//! collection cannot be opened with it.
//!
//! Limit: one that opens in spite of an empty file stays, and reads of its points fail. It is not
//! left out without an error, because a version of this crate without marks may have written it
//! and removed its writes from the log.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::UNFINISHED;
use crate::synced_files::SyncedFiles;

const SEGMENTS: &str = "segments";
/// The last file of a segment that edge writes.
const COMPLETE: &str = "version.info";
const MARK: &str = "synced";

/// Syncs everything new in the shard's folder `at`, then marks the segments that were complete
/// before.
///
/// # Errors
/// Those of the file system.
pub(super) fn sync(files: &mut SyncedFiles, at: &Path) -> io::Result<()> {
    let unmarked = unmarked(at)?;
    files.sync_new(at)?;
    for segment in unmarked {
        match mark(&segment) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // It was removed meanwhile.
            _ => {}
        }
    }
    Ok(())
}

/// [`sync`] if a complete segment has no mark: before edge's `flush`, which removes from the log
/// what the segments have.
///
/// # Errors
/// Those of the file system.
pub(super) fn sync_unmarked(files: &mut SyncedFiles, at: &Path) -> io::Result<()> {
    if unmarked(at)?.is_empty() { Ok(()) } else { sync(files, at) }
}

/// Returns the complete segments without a mark.
fn unmarked(at: &Path) -> io::Result<Vec<PathBuf>> {
    let mut unmarked = segments(at)?;
    unmarked.retain(|segment| segment.join(COMPLETE).exists() && !segment.join(MARK).exists());
    Ok(unmarked)
}

fn mark(segment: &Path) -> io::Result<()> {
    File::create(segment.join(MARK))?.sync_all()?;
    File::open(segment)?.sync_all()
}

/// Moves the segments without a mark to those that an interrupted optimisation left, which the next
/// start removes. Does nothing in a folder of an earlier version, which marked none. Returns
/// whether there was such a segment.
///
/// # Errors
/// Those of the file system.
pub(super) fn leave_out_unmarked(at: &Path) -> io::Result<bool> {
    let (marked, unmarked): (Vec<_>, Vec<_>) =
        segments(at)?.into_iter().partition(|segment| segment.join(MARK).exists());
    if marked.is_empty() || unmarked.is_empty() {
        return Ok(false);
    }
    fs::create_dir_all(at.join(UNFINISHED))?;
    for segment in &unmarked {
        fs::rename(segment, at.join(UNFINISHED).join(segment.file_name().unwrap_or_default()))?;
    }
    File::open(at.join(SEGMENTS))?.sync_all()?;
    Ok(true)
}

fn segments(at: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(at.join(SEGMENTS))?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(at: &Path, name: &str, files: &[&str]) -> PathBuf {
        let segment = at.join(SEGMENTS).join(name);
        fs::create_dir_all(&segment).unwrap();
        files.iter().for_each(|file| fs::write(segment.join(file), "").unwrap());
        segment
    }

    #[test]
    fn only_complete_segments_are_marked() {
        let folder = tempfile::tempdir().unwrap();
        let complete = segment(folder.path(), "complete", &["segment.json", COMPLETE]);
        let begun = segment(folder.path(), "begun", &["segment.json"]);
        sync(&mut SyncedFiles::default(), folder.path()).unwrap();
        assert!(complete.join(MARK).exists() && !begun.join(MARK).exists());
    }

    #[test]
    fn unmarked_segments_are_left_out_unless_no_segment_is_marked() {
        let folder = tempfile::tempdir().unwrap();
        let earlier = segment(folder.path(), "earlier", &[COMPLETE]);
        assert!(!leave_out_unmarked(folder.path()).unwrap());
        sync(&mut SyncedFiles::default(), folder.path()).unwrap();
        let new = segment(folder.path(), "new", &[COMPLETE]);
        assert!(leave_out_unmarked(folder.path()).unwrap());
        assert!(earlier.exists() && !new.exists());
        assert!(folder.path().join(UNFINISHED).join("new").exists());
        assert!(!leave_out_unmarked(folder.path()).unwrap());
    }
}
