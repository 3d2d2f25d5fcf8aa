//! The check for free disk space before a write. Edge writes through memory maps of files that are
//! longer than their contents; on a full disk, such a write kills the process. So every write
//! checks the disk first.

use std::path::Path;

use tonic::Status;

/// The free bytes required for a write: room for a log file, a chunk of each vector and of the
/// payload, and several messages of the largest size.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// Returns RESOURCE_EXHAUSTED if the disk of `folder` is nearly full.
pub(crate) fn check(folder: &Path) -> Result<(), Status> {
    match fs4::available_space(folder) {
        Ok(available) => enough(folder, available),
        // An unknown amount of free space does not block writes.
        Err(error) => {
            tracing::debug!(folder = %folder.display(), %error, "the free space on the disk is unknown");
            Ok(())
        }
    }
}

fn enough(folder: &Path, available: u64) -> Result<(), Status> {
    if available >= RESERVE_BYTES {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "the disk of {} has {} MB free, and {} MB are needed to write; make room and write again. \
         Acknowledged writes are safe, and searches continue",
        folder.display(),
        available >> 20,
        RESERVE_BYTES >> 20,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_to_a_nearly_full_disk_is_refused_with_what_to_do() {
        let folder = Path::new("/data/index");
        assert!(enough(folder, RESERVE_BYTES).is_ok());
        let status = enough(folder, RESERVE_BYTES - 1).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(status.message().contains("/data/index") && status.message().contains("make room"));
    }
}
