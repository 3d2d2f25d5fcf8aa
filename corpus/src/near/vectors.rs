//! Vectors as half floats, in memory or in a file: consecutive, little-endian.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::CorpusError;

/// Vectors in memory are allocated in pieces of this many, so that growing copies nothing.
const PIECE: usize = 4_096;

#[derive(Debug)]
pub(super) struct Vectors {
    dim: usize,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Memory(Vec<Vec<f16>>),
    File { file: File, path: PathBuf, count: usize },
}

impl Vectors {
    pub fn in_memory(dim: usize) -> Self {
        Self { dim, storage: Storage::Memory(Vec::new()) }
    }

    /// Opens a file and keeps its first `kept` vectors.
    pub fn in_file(dim: usize, path: &Path, kept: u64) -> Result<Self, CorpusError> {
        let failed = |error: io::Error| CorpusError::unwritable(path, error);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(kept == 0).open(path);
        let file = options.map_err(failed)?;
        let (length, wanted) = (file.metadata().map_err(failed)?.len(), kept * 2 * dim as u64);
        if length < wanted {
            let held = length / (2 * dim as u64);
            let reason = format!("it holds {held} of {kept} vectors; start over with --restart");
            return Err(CorpusError::checkpoint(path, reason));
        }
        file.set_len(wanted).map_err(failed)?;
        Ok(Self { dim, storage: Storage::File { file, path: path.to_owned(), count: kept as usize } })
    }

    pub fn push(&mut self, vector: &[f16]) -> Result<(), CorpusError> {
        match &mut self.storage {
            Storage::Memory(pieces) => {
                let full = PIECE * self.dim;
                if pieces.last().is_none_or(|last| last.len() == full) {
                    pieces.push(Vec::with_capacity(if pieces.is_empty() { 0 } else { full }));
                }
                if let Some(last) = pieces.last_mut() {
                    last.extend_from_slice(vector);
                }
            }
            Storage::File { file, path, count } => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                let at = *count as u64 * bytes.len() as u64;
                file.write_all_at(&bytes, at).map_err(|error| CorpusError::unwritable(path, error))?;
                *count += 1;
            }
        }
        Ok(())
    }

    /// Reads the vector with this number into `vector`.
    pub fn read(&self, number: usize, vector: &mut [f32]) -> Result<(), CorpusError> {
        match &self.storage {
            Storage::Memory(pieces) => {
                let start = number % PIECE * self.dim;
                pieces[number / PIECE][start..start + self.dim].convert_to_f32_slice(vector);
            }
            Storage::File { file, path, .. } => {
                let mut bytes = vec![0; 2 * self.dim];
                let at = number as u64 * bytes.len() as u64;
                let failed = |error: io::Error| CorpusError::unreadable(path.display().to_string(), error);
                file.read_exact_at(&mut bytes, at).map_err(failed)?;
                let halves: Vec<f16> =
                    bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect();
                halves.convert_to_f32_slice(vector);
            }
        }
        Ok(())
    }

    pub fn sync(&self) -> Result<(), CorpusError> {
        match &self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::File { file, path, .. } => {
                file.sync_data().map_err(|error| CorpusError::unwritable(path, error))
            }
        }
    }
}
