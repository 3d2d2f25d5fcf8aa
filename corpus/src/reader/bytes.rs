//! The bytes of an input, unpacked. It knows nothing of what they mean.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::source::{Input, Place};

const BUFFER_BYTES: usize = 256 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How many bytes of an input, as it is packed, were read.
pub(super) type Counter = Arc<AtomicU64>;

/// Counts what is read.
struct Counted<R> {
    inner: R,
    counter: Counter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.counter.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The bytes, unpacked where their beginning says that they are gzip (of any number of members) or zstd (of any
/// number of frames).
pub(super) fn open(input: &Input, counter: &Counter) -> io::Result<Box<dyn BufRead + Send>> {
    let raw: Box<dyn Read + Send> = match &input.place {
        Place::File(path) => Box::new(File::open(path)?),
        Place::Stdin => Box::new(io::stdin()),
        Place::Remote(file) => Box::new(file.reader(0)),
    };
    let mut raw = BufReader::with_capacity(BUFFER_BYTES, Counted { inner: raw, counter: counter.clone() });
    let head = raw.fill_buf()?;
    if head.starts_with(&GZIP) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw))));
    }
    if head.starts_with(&ZSTD) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(raw)?)));
    }
    Ok(Box::new(raw))
}
