//! Answers the kernel's requests from the tree. Without power each answer is EIO.
//!
//! The kernel keeps POSIX locks and `flock` itself, writes dirty pages of a shared mapping before
//! it asks for a sync, and applies the umask and the permissions.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use parking_lot::Mutex;

use crate::contents::PAGE_BYTES;
use crate::file::File;
use crate::rules::{Rules, Synced};
use crate::tree::{Folder, Ino, Inode, Meta, Node, Result, Target, Tree};

/// The size that the disk reports: more than a test writes.
const BLOCKS: u64 = (1 << 40) / PAGE_BYTES;
const INODES: u64 = 1 << 32;

/// The largest write that a request carries, if the kernel allows it.
const MAX_WRITE_BYTES: u32 = 1 << 20;

/// How long the kernel may cache attributes and entries: not at all, so that only cached pages
/// outlive the power.
const TTL: Duration = Duration::ZERO;

/// The tree, or `None` once the power is cut.
pub type Powered = Arc<Mutex<Option<Tree>>>;

#[derive(Debug)]
pub struct Requests {
    powered: Powered,
    rules: Arc<Rules>,
    /// The entries of each open directory, as of its first read: offsets count them.
    listings: Mutex<BTreeMap<u64, Listing>>,
    next_handle: AtomicU64,
}

type Listing = Arc<Vec<(Ino, FileType, OsString)>>;

impl Requests {
    pub fn new(powered: Powered, rules: Arc<Rules>) -> Self {
        Self { powered, rules, listings: Mutex::default(), next_handle: AtomicU64::new(1) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Tree) -> Result<T>) -> Result<T> {
        work(self.powered.lock().as_mut().ok_or(Errno::EIO)?)
    }

    fn needs_space(&self) -> Result<()> {
        if self.rules.is_full() { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Runs the work, and returns the attributes of its inode, to which the kernel then refers.
    fn entry(&self, work: impl FnOnce(&mut Tree) -> Result<Ino>) -> Result<FileAttr> {
        self.with(|tree| {
            let ino = work(tree)?;
            Ok(attributes(ino, tree.referred(ino)?))
        })
    }

    fn new_entry(&self, at: (INodeNo, &OsStr), meta: Meta, node: Node) -> Result<FileAttr> {
        self.entry(|tree| {
            self.needs_space()?;
            tree.create(at.0.0, at.1, meta, node)
        })
    }

    /// Opens the file that another process made meanwhile, unless the caller wants a new one.
    fn create_or_open(&self, at: (INodeNo, &OsStr), meta: Meta, flags: i32) -> Result<FileAttr> {
        self.entry(|tree| match tree.lookup(at.0.0, at.1) {
            Ok(_) if flags & libc::O_EXCL != 0 => Err(Errno::EEXIST),
            Ok(ino) if flags & libc::O_TRUNC != 0 => {
                tree.file_mut(ino).map(|file| file.set_len(0)).map(|()| ino)
            }
            Ok(ino) => tree.file(ino).map(|_| ino),
            Err(_) => {
                self.needs_space()?;
                tree.create(at.0.0, at.1, meta, Node::File(File::default()))
            }
        })
    }

    fn write_data(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        let bytes = offset..offset + data.len() as u64;
        self.with(|tree| {
            let file = tree.file_mut(ino)?;
            if !file.contents().has_pages(bytes) {
                self.needs_space()?;
            }
            file.write(offset, data);
            Ok(())
        })
    }

    fn allocate(&self, ino: Ino, offset: u64, length: u64, mode: i32) -> Result<()> {
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let keeps_size = mode & FALLOC_FL_KEEP_SIZE != 0;
        self.with(|tree| {
            let file = tree.file_mut(ino)?;
            match mode & !FALLOC_FL_KEEP_SIZE {
                0 => self.needs_space().map(|()| file.allocate(offset..end))?,
                FALLOC_FL_PUNCH_HOLE if keeps_size => file.zero(offset..end),
                FALLOC_FL_ZERO_RANGE => {
                    self.needs_space()?;
                    file.zero(offset..end);
                    file.allocate(offset..end);
                }
                _ => return Err(Errno::EOPNOTSUPP),
            }
            if !keeps_size && end > file.contents().len() {
                file.set_len(end);
            }
            Ok(())
        })
    }

    fn sync(&self, ino: Ino, synced: Synced) -> Result<()> {
        self.with(|tree| match (self.rules.counts(synced, &tree.paths(ino)), synced) {
            (false, _) => Ok(()),
            (true, Synced::File) => tree.sync_file(ino),
            (true, Synced::Folder) => tree.sync_folder(ino),
        })
    }

    /// The entries of an open directory; a read from the start lists them anew.
    fn listing(&self, ino: Ino, handle: u64, offset: u64) -> Result<Listing> {
        let mut listings = self.listings.lock();
        if offset == 0 || !listings.contains_key(&handle) {
            listings.insert(handle, Arc::new(self.with(|tree| tree.list(ino))?));
        }
        listings.get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// Free blocks and free inodes.
    fn space(&self) -> Result<(u64, u64)> {
        let used = self.with(|tree| Ok(tree.page_count()))?;
        Ok(if self.rules.is_full() { (0, 0) } else { (BLOCKS.saturating_sub(used), INODES) })
    }
}

fn attributes(ino: Ino, inode: &Inode) -> FileAttr {
    let Meta { mode, uid, gid, accessed, modified, changed } = inode.meta.clone();
    let (size, pages) = match &inode.node {
        Node::File(file) => (file.contents().len(), file.contents().page_count()),
        Node::Folder(_) => (PAGE_BYTES, 1),
        Node::Symlink(target) => (target.len() as u64, 0),
    };
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: pages * PAGE_BYTES / 512,
        atime: accessed,
        mtime: modified,
        ctime: changed,
        crtime: changed,
        kind: inode.node.kind(),
        perm: mode,
        nlink: inode.links(),
        uid,
        gid,
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    }
}

fn time(wanted: TimeOrNow) -> SystemTime {
    match wanted {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

fn target(flags: RenameFlags) -> Result<Target> {
    const PLAIN: RenameFlags = RenameFlags::empty();
    match flags {
        PLAIN => Ok(Target::Replaced),
        RenameFlags::RENAME_NOREPLACE => Ok(Target::Absent),
        RenameFlags::RENAME_EXCHANGE => Ok(Target::Exchanged),
        _ => Err(Errno::EINVAL),
    }
}

fn owned_by(request: &Request, mode: u32) -> Meta {
    Meta::new(mode, request.uid(), request.gid())
}

fn answer(result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_data(result: Result<Vec<u8>>, reply: ReplyData) {
    match result {
        Ok(data) => reply.data(&data),
        Err(error) => reply.error(error),
    }
}

fn answer_entry(result: Result<FileAttr>, reply: ReplyEntry) {
    match result {
        Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn answer_attributes(result: Result<FileAttr>, reply: ReplyAttr) {
    match result {
        Ok(attributes) => reply.attr(&TTL, &attributes),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Requests {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // An error names the largest size that is allowed.
        if let Err(largest) = config.set_max_write(MAX_WRITE_BYTES) {
            let _ = config.set_max_write(largest);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.entry(|tree| tree.lookup(parent.0, name)), reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        if let Some(tree) = self.powered.lock().as_mut() {
            tree.forget(ino.0, lookups);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(self.with(|tree| Ok(attributes(ino.0, tree.inode(ino.0)?))), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.with(|tree| {
            if let Some(size) = size {
                tree.file_mut(ino.0)?.set_len(size);
            }
            let inode = tree.inode_mut(ino.0)?;
            let meta = &mut inode.meta;
            meta.mode = mode.map_or(meta.mode, |mode| (mode & 0o7777) as u16);
            meta.uid = uid.unwrap_or(meta.uid);
            meta.gid = gid.unwrap_or(meta.gid);
            meta.accessed = accessed.map_or(meta.accessed, time);
            meta.modified = modified.map_or(meta.modified, time);
            meta.changed = SystemTime::now();
            Ok(attributes(ino.0, inode))
        });
        answer_attributes(changed, reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.with(|tree| match &tree.inode(ino.0)?.node {
            Node::Symlink(target) => Ok(target.clone().into_encoded_bytes()),
            Node::File(_) | Node::Folder(_) => Err(Errno::EINVAL),
        });
        answer_data(target, reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM);
        }
        let file = Node::File(File::default());
        answer_entry(self.new_entry((parent, name), owned_by(request, mode), file), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let folder = Node::Folder(Folder::default());
        answer_entry(self.new_entry((parent, name), owned_by(request, mode), folder), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.with(|tree| tree.unlink(parent.0, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.with(|tree| tree.rmdir(parent.0, name)), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let symlink = Node::Symlink(target.as_os_str().to_owned());
        answer_entry(self.new_entry((parent, name), owned_by(request, 0o777), symlink), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        answer(self.with(|tree| tree.rename(from, to, target(flags)?)), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.entry(|tree| {
            self.needs_space()?;
            tree.link(ino.0, parent.0, name).map(|()| ino.0)
        });
        answer_entry(linked, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create_or_open((parent, name), owned_by(request, mode), flags) {
            Ok(file) => {
                reply.created(&TTL, &file, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.with(|tree| tree.inode(ino.0).map(drop)) {
            // Only the kernel changes files, so what it cached stays true.
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.with(|tree| Ok(tree.file(ino.0)?.contents().read(offset, u64::from(size))));
        answer_data(read, reply);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_data(ino.0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        answer(self.with(|_| Ok(())), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        answer(self.sync(ino.0, Synced::File), reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.with(|tree| tree.inode(ino.0).map(drop)) {
            Ok(()) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = match self.listing(ino.0, handle.0, offset) {
            Ok(listing) => listing,
            Err(error) => return reply.error(error),
        };
        for (at, (ino, kind, name)) in listing.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        answer(self.sync(ino.0, Synced::Folder), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.space() {
            Ok((blocks, inodes)) => {
                let size = PAGE_BYTES as u32;
                reply.statfs(BLOCKS, blocks, blocks, INODES, inodes, size, 255, size);
            }
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer(self.allocate(ino.0, offset, length, mode), reply);
    }
}
