//! A file that appears under its name only when it is complete. It knows nothing of its content.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use flate2::write::GzEncoder;

use crate::CorpusError;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Returns the name without its compression ending, and the compression.
    pub fn of(name: &str) -> (&str, Self) {
        if let Some(stem) = name.strip_suffix(".gz") {
            return (stem, Self::Gzip);
        }
        match name.strip_suffix(".zst").or_else(|| name.strip_suffix(".zstd")) {
            Some(stem) => (stem, Self::Zstd),
            None => (name, Self::None),
        }
    }
}

/// Writes to a temporary file, which is removed unless it is finished.
pub(super) struct Output {
    /// None after it is finished.
    encoder: Option<Encoder>,
    path: PathBuf,
}

enum Encoder {
    Plain(BufWriter<AtomicWriteFile>),
    Gzip(GzEncoder<BufWriter<AtomicWriteFile>>),
    Zstd(zstd::Encoder<'static, BufWriter<AtomicWriteFile>>),
}

impl Output {
    pub fn create(path: &Path, compression: Compression) -> Result<Self, CorpusError> {
        let failed = |error: io::Error| CorpusError::unwritable(path, error);
        let file = BufWriter::new(AtomicWriteFile::open(path).map_err(failed)?);
        let encoder = match compression {
            Compression::None => Encoder::Plain(file),
            Compression::Gzip => Encoder::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Compression::Zstd => Encoder::Zstd(zstd::Encoder::new(file, ZSTD_LEVEL).map_err(failed)?),
        };
        Ok(Self { encoder: Some(encoder), path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes everything to the disk, then gives the file its name.
    pub fn finish(mut self) -> Result<(), CorpusError> {
        self.put_in_place().map_err(|error| CorpusError::unwritable(&self.path, error))
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let file = match encoder {
            Encoder::Plain(file) => file,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        };
        file.into_inner().map_err(io::IntoInnerError::into_error)?.commit()
    }

    fn writer(&mut self) -> io::Result<&mut dyn Write> {
        match &mut self.encoder {
            Some(Encoder::Plain(file)) => Ok(file),
            Some(Encoder::Gzip(encoder)) => Ok(encoder),
            Some(Encoder::Zstd(encoder)) => Ok(encoder),
            None => Err(io::Error::other("the file is finished")),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer()?.flush()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("path", &self.path).finish_non_exhaustive()
    }
}
