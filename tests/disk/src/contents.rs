//! The bytes of a file: a length, and the pages that hold data. It must not know what is durable.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The size of a page, which is also the unit that survives or is lost.
pub const PAGE_BYTES: u64 = 4096;

pub type Page = Arc<[u8; PAGE_BYTES as usize]>;

/// Sparse contents. A page that is absent reads as zeros, and so does a page behind the length.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pages: BTreeMap<u64, Page>,
    len: u64,
}

/// A page and the part of it that a range of bytes covers.
struct Part {
    page: u64,
    within: Range<usize>,
}

impl Contents {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    pub fn page(&self, page: u64) -> Option<&Page> {
        self.pages.get(&page)
    }

    /// Sets the page, or makes it a hole.
    pub fn set_page(&mut self, page: u64, data: Option<Page>) {
        match data {
            Some(data) => self.pages.insert(page, data),
            None => self.pages.remove(&page),
        };
    }

    /// Returns whether each page of the range holds data, so that a write needs no new page.
    pub fn has_pages(&self, bytes: Range<u64>) -> bool {
        parts(bytes).all(|part| self.pages.contains_key(&part.page))
    }

    /// Reads at most `size` bytes; fewer at the end of the file.
    pub fn read(&self, offset: u64, size: u64) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(size));
        let mut read = Vec::with_capacity(end.saturating_sub(offset) as usize);
        for Part { page, within } in parts(offset..end) {
            match self.pages.get(&page) {
                Some(data) => read.extend_from_slice(&data[within]),
                None => read.resize(read.len() + within.len(), 0),
            }
        }
        read
    }

    /// Writes the data and returns the pages that changed.
    pub fn write(&mut self, offset: u64, mut data: &[u8]) -> Range<u64> {
        let end = offset + data.len() as u64;
        for Part { page, within } in parts(offset..end) {
            let (now, later) = data.split_at(within.len());
            self.page_mut(page)[within].copy_from_slice(now);
            data = later;
        }
        self.len = self.len.max(end);
        pages_of(offset..end)
    }

    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE_BYTES as usize] {
        Arc::make_mut(self.pages.entry(page).or_insert_with(zeros))
    }

    /// Truncates the file or extends it with a hole, and returns the pages that changed.
    pub fn set_len(&mut self, len: u64) -> Vec<u64> {
        let changed = if len < self.len { self.zero(len..self.len) } else { Vec::new() };
        self.len = len;
        changed
    }

    /// Makes the bytes zero, whole pages a hole, and returns the pages that changed.
    pub fn zero(&mut self, bytes: Range<u64>) -> Vec<u64> {
        let covered: Vec<u64> = self.pages.range(pages_of(bytes.clone())).map(|(&page, _)| page).collect();
        // Bytes behind the length are zeros already.
        let end = if bytes.end >= self.len { u64::MAX } else { bytes.end };
        for &page in &covered {
            self.zero_in_page(page, bytes.start..end);
        }
        covered
    }

    fn zero_in_page(&mut self, page: u64, bytes: Range<u64>) {
        let start = page * PAGE_BYTES;
        let from = bytes.start.saturating_sub(start).min(PAGE_BYTES) as usize;
        let to = bytes.end.saturating_sub(start).min(PAGE_BYTES) as usize;
        if to - from == PAGE_BYTES as usize {
            self.pages.remove(&page);
        } else {
            self.page_mut(page)[from..to].fill(0);
        }
    }

    /// Gives each page of the range data, zeros if it has none, and returns the new pages.
    pub fn allocate(&mut self, bytes: Range<u64>) -> Vec<u64> {
        // One page of zeros serves all of them until they are written.
        let zeros = zeros();
        let new: Vec<u64> = pages_of(bytes).filter(|page| !self.pages.contains_key(page)).collect();
        self.pages.extend(new.iter().map(|&page| (page, Arc::clone(&zeros))));
        new
    }
}

fn zeros() -> Page {
    Arc::new([0; PAGE_BYTES as usize])
}

/// The pages that the bytes lie in.
fn pages_of(bytes: Range<u64>) -> Range<u64> {
    bytes.start / PAGE_BYTES..bytes.end.div_ceil(PAGE_BYTES)
}

fn parts(bytes: Range<u64>) -> impl Iterator<Item = Part> {
    let pages = if bytes.is_empty() { 0..0 } else { pages_of(bytes.clone()) };
    pages.map(move |page| {
        let start = page * PAGE_BYTES;
        let from = bytes.start.max(start) - start;
        let to = bytes.end.min(start + PAGE_BYTES) - start;
        Part { page, within: from as usize..to as usize }
    })
}
