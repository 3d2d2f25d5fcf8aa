//! The decompressed bytes of an input. It knows nothing of their meaning.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::source::{Input, InputLocation};

const BUFFER_BYTES: usize = 256 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The number of bytes consumed from an input, before decompression.
pub(super) type Counter = Arc<AtomicU64>;

/// Counts bytes when they are consumed rather than buffered, so that a small input is not counted
/// as read at its first row.
struct Counted<R> {
    inner: BufReader<R>,
    counter: Counter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.counter.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, taken: usize) {
        self.counter.fetch_add(taken as u64, Ordering::Relaxed);
        self.inner.consume(taken);
    }
}

/// Opens the input, and decompresses it if its first bytes are those of gzip (any number of
/// members) or zstd (any number of frames).
pub(super) fn open(input: &Input, counter: &Counter) -> io::Result<Box<dyn BufRead + Send>> {
    let raw: Box<dyn Read + Send> = match &input.location {
        InputLocation::File(path) => Box::new(File::open(path)?),
        InputLocation::Stdin => Box::new(io::stdin()),
        InputLocation::Remote(file) => Box::new(file.reader(0)),
    };
    let mut raw = Counted { inner: BufReader::with_capacity(BUFFER_BYTES, raw), counter: counter.clone() };
    let head = raw.fill_buf()?;
    if head.starts_with(&GZIP) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw))));
    }
    if head.starts_with(&ZSTD) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(raw)?)));
    }
    Ok(Box::new(raw))
}
