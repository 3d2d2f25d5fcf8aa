//! The bytes of an input, unpacked. It knows nothing of what they mean.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::source::{Input, InputLocation};

const BUFFER_BYTES: usize = 256 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How many bytes of an input, as it is packed, were taken.
pub(super) type Counter = Arc<AtomicU64>;

/// Counts what is taken, not what is read ahead: a small input is not over with its first row.
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

/// The bytes, unpacked where their beginning says that they are gzip (of any number of members) or zstd (of any
/// number of frames).
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
