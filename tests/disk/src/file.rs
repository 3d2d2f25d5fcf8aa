//! A file in two versions: what was written, and what of it is durable.

use std::collections::BTreeSet;
use std::ops::Range;

use rand::Rng;

use crate::contents::{Contents, PAGE_BYTES};

#[derive(Debug, Default)]
pub struct File {
    current: Contents,
    durable: Contents,
    /// The pages that may differ between the two.
    dirty: BTreeSet<u64>,
    /// The smallest length since the last sync, if the file was truncated since.
    shrunk_to: Option<u64>,
}

impl File {
    pub fn contents(&self) -> &Contents {
        &self.current
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.dirty.extend(self.current.write(offset, data));
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.current.len() {
            self.shrunk_to = Some(self.shrunk_to.map_or(len, |before| before.min(len)));
        }
        self.dirty.extend(self.current.set_len(len));
    }

    pub fn zero(&mut self, bytes: Range<u64>) {
        self.dirty.extend(self.current.zero(bytes));
    }

    pub fn allocate(&mut self, bytes: Range<u64>) {
        self.dirty.extend(self.current.allocate(bytes));
    }

    /// Makes the current contents durable.
    pub fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            self.durable.set_page(page, self.current.page(page).cloned());
        }
        self.durable.set_len(self.current.len());
        self.shrunk_to = None;
    }

    /// Forgets what is not durable.
    pub fn lose_unsynced(&mut self) {
        self.current = self.durable.clone();
        self.dirty.clear();
        self.shrunk_to = None;
    }

    /// Makes a random part of what is not durable durable: each page on its own, as a disk may
    /// write them in any order.
    pub fn survive(&mut self, rng: &mut impl Rng) {
        let truncated = self.shrunk_to.filter(|&to| to < self.durable.len());
        match truncated {
            // A journal orders the truncation before later writes to the part that it cut off.
            Some(to) if rng.random() => self.survive_before(to / PAGE_BYTES, rng),
            Some(to) => {
                self.durable.set_len(to);
                self.survive_and_grow(rng);
            }
            None => self.survive_and_grow(rng),
        }
    }

    /// Only pages below `limit` may survive; the length stays.
    fn survive_before(&mut self, limit: u64, rng: &mut impl Rng) {
        for &page in self.dirty.range(..limit) {
            if rng.random() {
                self.durable.set_page(page, self.current.page(page).cloned());
            }
        }
    }

    fn survive_and_grow(&mut self, rng: &mut impl Rng) {
        let len = self.current.len();
        let mut reached = self.durable.len();
        for &page in self.dirty.iter().filter(|_| rng.random()) {
            let data = self.current.page(page).cloned();
            if data.is_some() {
                reached = reached.max(len.min((page + 1) * PAGE_BYTES));
            }
            self.durable.set_page(page, data);
        }
        // The length is metadata: it may be durable before the pages that it covers, or be lost
        // with those that it would cover.
        let grown = match rng.random_range(0..3) {
            0 => reached,
            1 => len,
            _ => rng.random_range(self.durable.len()..=len),
        };
        self.durable.set_len(grown);
    }
}
