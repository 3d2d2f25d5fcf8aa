//! The inodes of the disk and their names, both as processes see them and as they are durable.
//! It must not know that it is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use fuser::{Errno, FileType};
use rand::Rng;

use crate::changes::{Change, Edit, surviving, take_concerned};
use crate::file::File;

pub type Ino = u64;

/// The inode of the top directory.
pub const ROOT: Ino = 1;

const NAME_MAX_BYTES: usize = 255;

pub type Result<T> = std::result::Result<T, Errno>;

#[derive(Debug)]
pub struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    /// Changes of directories that are not durable, oldest first.
    changes: Vec<Change>,
    next: Ino,
}

#[derive(Debug)]
pub struct Inode {
    pub meta: Meta,
    pub node: Node,
    /// Its names, as processes see them.
    names: BTreeSet<(Ino, OsString)>,
    durable_names: usize,
    /// Changes in the log that give it a name.
    pending_names: usize,
    /// References that the kernel holds, for open files too.
    lookups: u64,
}

/// What `stat` says of an inode beside its length. A power cut does not change it.
#[derive(Clone, Debug)]
pub struct Meta {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub accessed: SystemTime,
    pub modified: SystemTime,
    pub changed: SystemTime,
}

#[derive(Debug)]
pub enum Node {
    File(File),
    Folder(Folder),
    Symlink(OsString),
}

#[derive(Debug, Default)]
pub struct Folder {
    current: BTreeMap<OsString, Ino>,
    durable: BTreeMap<OsString, Ino>,
}

/// How a rename treats the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    Replaced,
    Absent,
    Exchanged,
}

impl Meta {
    pub fn new(mode: u32, uid: u32, gid: u32) -> Self {
        let now = SystemTime::now();
        Self { mode: (mode & 0o7777) as u16, uid, gid, accessed: now, modified: now, changed: now }
    }
}

impl Node {
    pub fn kind(&self) -> FileType {
        match self {
            Self::File(_) => FileType::RegularFile,
            Self::Folder(_) => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
        }
    }
}

impl Inode {
    fn new(meta: Meta, node: Node) -> Self {
        Self { meta, node, names: BTreeSet::new(), durable_names: 0, pending_names: 0, lookups: 0 }
    }

    /// The number of names; 1 for a directory, as on Btrfs.
    pub fn links(&self) -> u32 {
        match &self.node {
            Node::Folder(_) => 1,
            Node::File(_) | Node::Symlink(_) => self.names.len() as u32,
        }
    }

    fn is_needed(&self) -> bool {
        !self.names.is_empty() || self.durable_names + self.pending_names > 0 || self.lookups > 0
    }

    fn modified(&mut self) {
        self.meta.modified = SystemTime::now();
        self.meta.changed = self.meta.modified;
    }
}

impl Tree {
    pub fn new(meta: Meta) -> Self {
        let mut root = Inode::new(meta, Node::Folder(Folder::default()));
        root.durable_names = 1;
        Self { inodes: BTreeMap::from([(ROOT, root)]), changes: Vec::new(), next: ROOT + 1 }
    }

    pub fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Errno::ENOENT)
    }

    pub fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    pub fn file(&self, ino: Ino) -> Result<&File> {
        match &self.inode(ino)?.node {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Errno::EISDIR),
            Node::Symlink(_) => Err(Errno::EINVAL),
        }
    }

    /// The file, whose time of modification becomes now.
    pub fn file_mut(&mut self, ino: Ino) -> Result<&mut File> {
        self.file(ino)?;
        let inode = self.inode_mut(ino)?;
        inode.modified();
        match &mut inode.node {
            Node::File(file) => Ok(file),
            Node::Folder(_) | Node::Symlink(_) => Err(Errno::EINVAL),
        }
    }

    fn folder(&self, ino: Ino) -> Result<&Folder> {
        match &self.inode(ino)?.node {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) | Node::Symlink(_) => Err(Errno::ENOTDIR),
        }
    }

    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Ino> {
        if name.len() > NAME_MAX_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        self.folder(parent)?.current.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn must_be_absent(&self, parent: Ino, name: &OsStr) -> Result<()> {
        match self.lookup(parent, name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(error) if error.code() == Errno::ENOENT.code() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The entries of a directory, with `.` and `..`.
    pub fn list(&self, ino: Ino) -> Result<Vec<(Ino, FileType, OsString)>> {
        let folder = self.folder(ino)?;
        let parent = self.inode(ino)?.names.first().map_or(ROOT, |(parent, _)| *parent);
        let dots = [(ino, FileType::Directory, ".".into()), (parent, FileType::Directory, "..".into())];
        let entry = |(name, &ino): (&OsString, &Ino)| Ok((ino, self.inode(ino)?.node.kind(), name.clone()));
        dots.into_iter().map(Ok).chain(folder.current.iter().map(entry)).collect()
    }

    pub fn create(&mut self, parent: Ino, name: &OsStr, meta: Meta, node: Node) -> Result<Ino> {
        self.must_be_absent(parent, name)?;
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, Inode::new(meta, node));
        self.change(Change { created: Some(ino), ..of(vec![edit(parent, name, Some(ino))]) });
        Ok(ino)
    }

    pub fn link(&mut self, ino: Ino, parent: Ino, name: &OsStr) -> Result<()> {
        self.inode(ino)?;
        self.must_be_absent(parent, name)?;
        self.change(of(vec![edit(parent, name, Some(ino))]));
        Ok(())
    }

    pub fn unlink(&mut self, parent: Ino, name: &OsStr) -> Result<()> {
        let ino = self.lookup(parent, name)?;
        if self.folder(ino).is_ok() {
            return Err(Errno::EISDIR);
        }
        self.change(of(vec![edit(parent, name, None)]));
        Ok(())
    }

    pub fn rmdir(&mut self, parent: Ino, name: &OsStr) -> Result<()> {
        let ino = self.lookup(parent, name)?;
        self.must_be_empty(ino)?;
        self.change(Change { removed: Some(ino), ..of(vec![edit(parent, name, None)]) });
        Ok(())
    }

    fn must_be_empty(&self, ino: Ino) -> Result<()> {
        if self.folder(ino)?.current.is_empty() { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }

    pub fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), target: Target) -> Result<()> {
        let moved = self.lookup(from.0, from.1)?;
        let replaced = match target {
            Target::Absent => self.must_be_absent(to.0, to.1).map(|()| None)?,
            Target::Replaced => self.lookup(to.0, to.1).ok(),
            Target::Exchanged => Some(self.lookup(to.0, to.1)?),
        };
        self.folder(to.0)?;
        if replaced == Some(moved) {
            return Ok(());
        }
        let exchanged = replaced.filter(|_| target == Target::Exchanged);
        let removed = replaced.filter(|&ino| exchanged.is_none() && self.folder(ino).is_ok());
        if let Some(ino) = removed {
            self.must_be_empty(ino)?;
        }
        let edits = vec![edit(from.0, from.1, exchanged), edit(to.0, to.1, Some(moved))];
        self.change(Change { removed, ..of(edits) });
        Ok(())
    }

    /// Applies the change to what processes see, and appends it to the log.
    fn change(&mut self, mut change: Change) {
        for edit in &change.edits {
            change.inodes.extend(self.set_current(edit));
            change.inodes.extend(edit.to);
        }
        self.changes.push(change);
    }

    /// Sets the name as processes see it, and returns the inode that lost it.
    fn set_current(&mut self, edit: &Edit) -> Option<Ino> {
        let parent = self.inodes.get_mut(&edit.folder)?;
        parent.modified();
        let Node::Folder(folder) = &mut parent.node else { return None };
        let old = set_name(&mut folder.current, edit);
        let name = (edit.folder, edit.name.clone());
        if let Some(inode) = old.and_then(|old| self.inodes.get_mut(&old)) {
            inode.names.remove(&name);
        }
        if let Some(inode) = edit.to.and_then(|to| self.inodes.get_mut(&to)) {
            inode.names.insert(name);
            inode.pending_names += 1;
        }
        old
    }

    /// Counts a reference of the kernel.
    pub fn referred(&mut self, ino: Ino) -> Result<&Inode> {
        let inode = self.inode_mut(ino)?;
        inode.lookups += 1;
        Ok(inode)
    }

    pub fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
            self.collect(ino);
        }
    }

    /// Removes the inode unless something needs it, and then those that only it named.
    fn collect(&mut self, ino: Ino) {
        if self.inodes.get(&ino).is_none_or(Inode::is_needed) {
            return;
        }
        let Some(Inode { node: Node::Folder(folder), .. }) = self.inodes.remove(&ino) else { return };
        for child in folder.durable.into_values() {
            self.lost_durable_name(child);
            self.collect(child);
        }
    }

    fn lost_durable_name(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.durable_names -= 1;
        }
    }

    /// Makes the contents of a file and its names durable.
    pub fn sync_file(&mut self, ino: Ino) -> Result<()> {
        if let Node::File(file) = &mut self.inode_mut(ino)?.node {
            file.sync();
        }
        let concerned = self.new_ancestors(ino).into_iter().chain([ino]).collect();
        self.commit(concerned, BTreeSet::new());
        Ok(())
    }

    /// Makes the entries of a directory durable.
    pub fn sync_folder(&mut self, ino: Ino) -> Result<()> {
        self.folder(ino)?;
        self.commit(self.new_ancestors(ino), BTreeSet::from([ino]));
        Ok(())
    }

    /// The inode and the directories above it that never had a durable name.
    fn new_ancestors(&self, ino: Ino) -> BTreeSet<Ino> {
        let (mut found, mut above) = (BTreeSet::new(), vec![ino]);
        while let Some(ino) = above.pop() {
            let Some(inode) = self.inodes.get(&ino) else { continue };
            if inode.durable_names == 0 {
                found.insert(ino);
            }
            above.extend(inode.names.iter().map(|(parent, _)| *parent));
        }
        found
    }

    fn commit(&mut self, inodes: BTreeSet<Ino>, folders: BTreeSet<Ino>) {
        for change in take_concerned(&mut self.changes, inodes, folders) {
            self.make_durable(change);
        }
    }

    fn make_durable(&mut self, change: Change) {
        for edit in &change.edits {
            self.set_durable(edit);
        }
        for ino in change.inodes {
            self.collect(ino);
        }
    }

    fn set_durable(&mut self, edit: &Edit) {
        if let Some(inode) = edit.to.and_then(|to| self.inodes.get_mut(&to)) {
            inode.pending_names -= 1;
        }
        // A directory that is gone for good keeps no names.
        let Some(Inode { node: Node::Folder(folder), .. }) = self.inodes.get_mut(&edit.folder) else {
            return;
        };
        let old = set_name(&mut folder.durable, edit);
        if let Some(inode) = edit.to.and_then(|to| self.inodes.get_mut(&to)) {
            inode.durable_names += 1;
        }
        if let Some(old) = old {
            self.lost_durable_name(old);
        }
    }

    /// Its paths from the top directory, which is `/`; none if it is unlinked.
    pub fn paths(&self, ino: Ino) -> Vec<String> {
        if ino == ROOT {
            return vec!["/".into()];
        }
        let Ok(inode) = self.inode(ino) else { return Vec::new() };
        let path = |(parent, name): &(Ino, OsString)| {
            let above = self.paths(*parent).into_iter().next()?;
            Some(format!("{}/{}", above.trim_end_matches('/'), name.display()))
        };
        inode.names.iter().filter_map(path).collect()
    }

    /// One path of each file that has one.
    pub fn file_paths(&self) -> Vec<String> {
        let files = self.inodes.iter().filter(|(_, inode)| matches!(inode.node, Node::File(_)));
        files.filter_map(|(&ino, _)| self.paths(ino).into_iter().next()).collect()
    }

    /// The pages that files hold in memory, as processes see them.
    pub fn page_count(&self) -> u64 {
        let pages = |inode: &Inode| match &inode.node {
            Node::File(file) => file.contents().page_count(),
            Node::Folder(_) | Node::Symlink(_) => 0,
        };
        self.inodes.values().map(pages).sum()
    }

    /// What a disk holds after a power cut: what is durable and, with `luck`, a random part of the
    /// rest.
    pub fn after_power_cut(mut self, mut luck: Option<impl Rng>) -> Self {
        let changes = std::mem::take(&mut self.changes);
        if let Some(rng) = &mut luck {
            for change in surviving(changes, || rng.random()) {
                self.make_durable(change);
            }
        }
        let reachable = self.durably_reachable();
        self.inodes.retain(|ino, _| reachable.contains_key(ino));
        for (ino, names) in reachable {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.restart(names, luck.as_mut());
            }
        }
        self
    }

    /// The inodes that a durable path leads to, and their names.
    fn durably_reachable(&self) -> BTreeMap<Ino, BTreeSet<(Ino, OsString)>> {
        let mut reachable = BTreeMap::from([(ROOT, BTreeSet::new())]);
        let mut open = vec![ROOT];
        while let Some(ino) = open.pop() {
            let Ok(folder) = self.folder(ino) else { continue };
            for (name, &child) in &folder.durable {
                let names: &mut BTreeSet<_> = reachable.entry(child).or_default();
                if names.is_empty() {
                    open.push(child);
                }
                names.insert((ino, name.clone()));
            }
        }
        reachable
    }
}

impl Inode {
    fn restart(&mut self, names: BTreeSet<(Ino, OsString)>, luck: Option<&mut impl Rng>) {
        match &mut self.node {
            Node::File(file) => {
                luck.into_iter().for_each(|rng| file.survive(rng));
                file.lose_unsynced();
            }
            Node::Folder(folder) => folder.current = folder.durable.clone(),
            Node::Symlink(_) => {}
        }
        // The top directory has no name and is always needed.
        self.durable_names = names.len().max(1);
        (self.names, self.pending_names, self.lookups) = (names, 0, 0);
    }
}

/// A change of which only the edits are known.
fn of(edits: Vec<Edit>) -> Change {
    Change { edits, inodes: BTreeSet::new(), created: None, removed: None }
}

fn edit(folder: Ino, name: &OsStr, to: Option<Ino>) -> Edit {
    Edit { folder, name: name.to_owned(), to }
}

/// Applies the edit to the entries, and returns the inode that the name meant before.
fn set_name(entries: &mut BTreeMap<OsString, Ino>, edit: &Edit) -> Option<Ino> {
    match edit.to {
        Some(to) => entries.insert(edit.name.clone(), to),
        None => entries.remove(&edit.name),
    }
}
