//! What a test asks of its disk, and what it learns from it. Both outlast a power cut.

use std::collections::BTreeMap;

use parking_lot::Mutex;

#[derive(Debug, Default)]
pub struct Rules(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    full: bool,
    ignored_files: Vec<String>,
    ignored_folders: Vec<String>,
    /// Syncs of each path.
    syncs: BTreeMap<String, u64>,
}

/// Which kind of sync an operation asks for.
#[derive(Clone, Copy, Debug)]
pub enum Synced {
    File,
    Folder,
}

impl Rules {
    pub fn fill(&self, full: bool) {
        self.0.lock().full = full;
    }

    pub fn is_full(&self) -> bool {
        self.0.lock().full
    }

    pub fn ignore(&self, synced: Synced, suffix: String) {
        let mut inner = self.0.lock();
        match synced {
            Synced::File => inner.ignored_files.push(suffix),
            Synced::Folder => inner.ignored_folders.push(suffix),
        }
    }

    pub fn ignore_nothing(&self) {
        let mut inner = self.0.lock();
        inner.ignored_files.clear();
        inner.ignored_folders.clear();
    }

    /// Counts the sync and returns whether it shall do what it promises.
    pub fn counts(&self, synced: Synced, paths: &[String]) -> bool {
        let mut inner = self.0.lock();
        if let Some(path) = paths.first() {
            *inner.syncs.entry(path.clone()).or_default() += 1;
        }
        let ignored = match synced {
            Synced::File => &inner.ignored_files,
            Synced::Folder => &inner.ignored_folders,
        };
        !ignored.iter().any(|suffix| paths.iter().any(|path| path.ends_with(suffix)))
    }

    pub fn syncs_of(&self, suffix: &str) -> u64 {
        let inner = self.0.lock();
        inner.syncs.iter().filter(|(path, _)| path.ends_with(suffix)).map(|(_, count)| count).sum()
    }
}
