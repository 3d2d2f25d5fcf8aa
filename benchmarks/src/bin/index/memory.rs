//! The memory of the process and the size of a folder.

use std::path::Path;

use serde_json::{Value, json};

/// The memory of this process in bytes: anonymous, resident mapped files, and the peak of both
/// together.
pub fn of_process() -> anyhow::Result<Value> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Ok(json!({"own": field("RssAnon:"), "mapped": field("RssFile:"), "peak": field("VmHWM:")}))
}

/// The disk space of the files under a folder, in bytes.
pub fn of_folder(folder: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let (entry, path) =
            (entry.as_ref().map(std::fs::DirEntry::metadata), entry.as_ref().map(std::fs::DirEntry::path));
        let (Ok(Ok(metadata)), Ok(path)) = (entry, path) else { continue };
        bytes += if metadata.is_dir() { of_folder(&path)? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
