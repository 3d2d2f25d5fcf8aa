//! Changes of directories that are not durable yet, and which of them depend on which.
//!
//! A change is atomic, as in a journaling file system: a rename removes the old name and sets the
//! new one, or does neither. A change survives only with the earlier ones that it builds on.

use std::collections::BTreeSet;
use std::ffi::OsString;

use crate::tree::Ino;

/// One name of a directory, and the inode that it names afterwards.
#[derive(Debug)]
pub struct Edit {
    pub folder: Ino,
    pub name: OsString,
    pub to: Option<Ino>,
}

#[derive(Debug)]
pub struct Change {
    pub edits: Vec<Edit>,
    /// The inodes that get or lose a name.
    pub inodes: BTreeSet<Ino>,
    /// The inode that gets its first name: a directory exists before its entries.
    pub created: Option<Ino>,
    /// The directory that the change removes: it must have become empty before.
    pub removed: Option<Ino>,
}

/// Names, inodes and directories that a set of changes concerns.
#[derive(Debug, Default)]
struct Touched {
    names: BTreeSet<(Ino, OsString)>,
    inodes: BTreeSet<Ino>,
    folders: BTreeSet<Ino>,
    created: BTreeSet<Ino>,
}

impl Change {
    fn folders(&self) -> impl Iterator<Item = Ino> {
        self.edits.iter().map(|edit| edit.folder)
    }
}

impl Touched {
    fn shares_name_or_inode(&self, change: &Change) -> bool {
        let named = |edit: &Edit| self.names.contains(&(edit.folder, edit.name.clone()));
        change.edits.iter().any(named) || !self.inodes.is_disjoint(&change.inodes)
    }

    fn add(&mut self, change: &Change) {
        self.names.extend(change.edits.iter().map(|edit| (edit.folder, edit.name.clone())));
        self.inodes.extend(&change.inodes);
    }
}

/// Takes the changes that concern one of the inodes or are in one of the folders out of the log,
/// with all that they build on.
pub fn take_concerned(log: &mut Vec<Change>, inodes: BTreeSet<Ino>, folders: BTreeSet<Ino>) -> Vec<Change> {
    let mut wanted = Touched { inodes, folders, ..Touched::default() };
    let mut taken = Vec::new();
    for at in (0..log.len()).rev() {
        let change = &log[at];
        let inside = change.folders().any(|folder| wanted.folders.contains(&folder));
        let creates = change.created.is_some_and(|ino| wanted.created.contains(&ino));
        if inside || creates || wanted.shares_name_or_inode(change) {
            wanted.add(change);
            wanted.folders.extend(change.removed);
            wanted.created.extend(change.folders());
            taken.push(at);
        }
    }
    taken.reverse();
    split(log, &taken.into_iter().collect())
}

/// Takes the changes at the positions out of the log.
fn split(log: &mut Vec<Change>, positions: &BTreeSet<usize>) -> Vec<Change> {
    let all = std::mem::take(log).into_iter().enumerate();
    let (taken, left): (Vec<_>, Vec<_>) = all.partition(|(at, _)| positions.contains(at));
    *log = left.into_iter().map(|(_, change)| change).collect();
    taken.into_iter().map(|(_, change)| change).collect()
}

/// The changes that survive if each is lost where `is_lost` says so, with all that build on it.
pub fn surviving(log: Vec<Change>, mut is_lost: impl FnMut() -> bool) -> Vec<Change> {
    let mut lost = Touched::default();
    let mut survivors = Vec::new();
    for change in log {
        let not_emptied = change.removed.is_some_and(|folder| lost.folders.contains(&folder));
        let not_created = change.folders().any(|folder| lost.created.contains(&folder));
        // `|` draws for each change, so that a draw does not depend on what is lost before.
        if is_lost() | not_emptied | not_created | lost.shares_name_or_inode(&change) {
            lost.add(&change);
            lost.folders.extend(change.folders());
            lost.created.extend(change.created);
        } else {
            survivors.push(change);
        }
    }
    survivors
}
