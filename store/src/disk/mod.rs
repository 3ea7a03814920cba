//! One node's folder of blocks.
//!
//! ```text
//! folder/
//!   node.json                 the node's id, and the store it takes part in
//!   blocks/<xx>/<id>.block    the bytes, nothing else; <xx> are the last two digits of the id
//!   blocks/<xx>/<id>.sum      their checksums (see `sidecar`)
//!   tmp/                      blocks being written; emptied at start
//!   quarantine/               second names of blocks that failed their checks: what they were like outlives their replacement
//! ```
//!
//! # Guarantees
//! - A block is there whole or not at all: bytes and checksums are written to `tmp/`, forced to the disk, renamed,
//!   and the folder is forced to the disk before the write is acknowledged.
//! - A read checks exactly the chunks it touches, and returns nothing that failed.
//! - Blocks never change. Writing one again replaces it as a whole.
//! - The time of change of a `.sum` file is when its block was last checked as a whole.
//!
//! # Not here
//! Which blocks should be here (the namespace decides), and who reads them.

mod sidecar;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_common::{Error, Kind, NodeId, Result};

use crate::block::BlockId;
use crate::remote::BlockOnDisk;
use sidecar::Sidecar;
pub use writer::BlockWriter;

const VERSION: u32 = 1;
/// Checksum files kept in memory: at 128 MiB and 64 KiB, 8 KiB each.
const SIDECARS_MAX: u64 = 4096;

/// A folder of blocks. Cheap to clone. Methods block on the disk: call them where that is fine, or the `async` ones.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    node: NodeId,
    chunk: u32,
    identity: Mutex<Identity>,
    sidecars: Cache<BlockId, Arc<Sidecar>>,
    counter: AtomicU64,
    /// Bytes of whole blocks.
    used: AtomicU64,
    /// Bytes of blocks it takes at most.
    capacity: Mutex<Option<u64>>,
    /// Absent: another process writes here.
    _lock: Option<File>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Identity {
    version: u32,
    node: NodeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<String>,
}

/// What is in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Whole blocks, sorted by id.
    pub blocks: Vec<BlockOnDisk>,
    /// Blocks whose bytes or checksum file are missing or of the wrong length, sorted by id.
    pub bad: Vec<BlockId>,
}

impl Disk {
    /// Opens the folder, creating it with a fresh node id (or `name`) if it is new, and clears what writes left
    /// behind. One process at a time: the folder is locked until the last clone is dropped.
    ///
    /// # Errors
    /// `Unavailable` if another process has it open; `Invalid` if it is of another version or of a node not called
    /// `name`; `Corrupt` if its identity cannot be read; else those of the file system.
    pub fn open(folder: &Path, name: Option<NodeId>, checksum_chunk: u32) -> Result<Self> {
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |e: std::io::Error| io_error(e, format!("cannot open the block folder '{path}'"))
        };
        std::fs::create_dir_all(folder.join("blocks")).map_err(at(folder))?;
        std::fs::create_dir_all(folder.join("tmp")).map_err(at(folder))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))
            .map_err(at(folder))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => {
                let folder = folder.display();
                Error::unavailable(format!("the block folder '{folder}' is in use by another process"))
                    .hint("stop that worker, or give this one a folder of its own")
            }
            TryLockError::Error(e) => at(folder)(e),
        })?;
        for entry in std::fs::read_dir(folder.join("tmp")).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            std::fs::remove_file(&path).map_err(at(&path))?;
        }
        let identity = load_identity(folder, name)?;
        let disk = Self(Arc::new(Inner {
            folder: folder.to_owned(),
            node: identity.node.clone(),
            chunk: checksum_chunk,
            identity: Mutex::new(identity),
            sidecars: Cache::new(SIDECARS_MAX),
            counter: AtomicU64::new(0),
            used: AtomicU64::new(0),
            capacity: Mutex::new(None),
            _lock: Some(lock),
        }));
        let lengths = disk.names("block")?.into_iter().map(|(_, meta)| meta.len());
        disk.0.used.store(lengths.sum(), Ordering::Relaxed);
        Ok(disk)
    }

    /// The folder of `node`, which another process of this machine has open, to read blocks without a network (HDFS calls
    /// it a short-circuit read). Blocks are immutable, so that reading beside their owner is safe.
    ///
    /// # Errors
    /// `NotFound` if the folder is not that node's, or cannot be read from here.
    pub fn open_beside(folder: &Path, node: &NodeId) -> Result<Self> {
        let absent = || Error::not_found(format!("'{}' is not the folder of node {node}", folder.display()));
        if !folder.join("node.json").is_file() || !folder.join("blocks").is_dir() {
            return Err(absent());
        }
        let identity = load_identity(folder, Some(node.clone())).map_err(|e| absent().source(e))?;
        Ok(Self(Arc::new(Inner {
            folder: folder.to_owned(),
            node: identity.node.clone(),
            chunk: 0,
            identity: Mutex::new(identity),
            sidecars: Cache::new(SIDECARS_MAX),
            counter: AtomicU64::new(0),
            used: AtomicU64::new(0),
            capacity: Mutex::new(None),
            _lock: None,
        })))
    }

    /// The node's id, for as long as the folder lives.
    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The store the folder takes part in.
    pub fn store(&self) -> Option<String> {
        self.0.identity.lock().store.clone()
    }

    /// Binds the folder to a store; from then on it serves no other.
    ///
    /// # Errors
    /// `Invalid` if it belongs to another; those of the file system.
    pub fn join_store(&self, store: &str) -> Result<()> {
        let mut identity = self.0.identity.lock();
        match &identity.store {
            Some(old) if old == store => return Ok(()),
            Some(_) => return Err(other_store(&self.0.folder)),
            None => {}
        }
        let joined = Identity { store: Some(store.to_owned()), ..identity.clone() };
        save_identity(&self.0.folder, &joined)?;
        *identity = joined;
        Ok(())
    }

    /// From here on no more than `capacity` bytes of blocks are said to fit.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        *self.0.capacity.lock() = capacity;
    }

    /// Bytes of the blocks that are here.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes free for blocks: on the file system of the folder, and up to the capacity. None if nothing can be written there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0.folder).map_err(|e| {
            io_error(e.into(), format!("cannot ask for the free space of '{}'", self.0.folder.display()))
        })?;
        if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Ok(0);
        }
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let fits = self.0.capacity.lock().map(|capacity| capacity.saturating_sub(self.used()));
        Ok(fits.map_or(free, |fits| fits.min(free)))
    }

    /// The files of blocks with this ending.
    fn names(&self, ending: &str) -> Result<Vec<(BlockId, std::fs::Metadata)>> {
        let wrong = |e| io_error(e, format!("cannot list the blocks in '{}'", self.0.folder.display()));
        let mut names = Vec::new();
        for shard in std::fs::read_dir(self.0.folder.join("blocks")).map_err(wrong)? {
            for entry in std::fs::read_dir(shard.map_err(wrong)?.path()).map_err(wrong)? {
                let entry = entry.map_err(wrong)?;
                let path = entry.path();
                let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
                let Some(id) = id.filter(|_| path.extension().is_some_and(|e| e == ending)) else { continue };
                match entry.metadata() {
                    Ok(meta) => names.push((id, meta)),
                    // Deleted meanwhile.
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(wrong(e)),
                }
            }
        }
        Ok(names)
    }

    /// The blocks with the times they were last checked as a whole, those first that were not for longest.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn by_last_check(&self) -> Result<Vec<(SystemTime, BlockId)>> {
        let mut found: Vec<_> = self
            .names("sum")?
            .into_iter()
            .map(|(block, meta)| (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), block))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The block was checked as a whole.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn checked(&self, block: BlockId, at: SystemTime) -> Result<()> {
        let set =
            OpenOptions::new().write(true).open(self.sidecar_path(block)).and_then(|f| f.set_modified(at));
        match set {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(io_error(e, format!("cannot note that block {block} was checked")))
            }
            _ => Ok(()),
        }
    }

    /// Gives a damaged block a second name in `quarantine/`, where it stays when it is replaced or deleted; the oldest there
    /// go when they are more than `max` bytes. The block itself is left, since chunks of it may be the last there are.
    /// Nothing happens in a folder that another process has open.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn quarantine(&self, block: BlockId, max: u64) -> Result<()> {
        if self.0._lock.is_none() {
            return Ok(());
        }
        let folder = self.0.folder.join("quarantine");
        let wrong = |e| io_error(e, format!("cannot put block {block} into '{}'", folder.display()));
        std::fs::create_dir_all(&folder).map_err(wrong)?;
        for (path, ending) in [(self.block_path(block), "block"), (self.sidecar_path(block), "sum")] {
            match std::fs::hard_link(&path, folder.join(format!("{block}.{ending}"))) {
                Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                    return Err(wrong(e));
                }
                _ => {}
            }
        }
        let mut held = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            held.push((entry.path(), entry.metadata().map_err(wrong)?.len()));
        }
        // Ids begin with the time they were made.
        held.sort_unstable();
        let mut bytes: u64 = held.iter().map(|(_, length)| length).sum();
        for (path, length) in held {
            if bytes <= max {
                break;
            }
            std::fs::remove_file(&path).map_err(wrong)?;
            bytes -= length;
        }
        Ok(())
    }

    /// Everything in the folder. Lengths are compared, bytes are not read.
    ///
    /// # Cost
    /// One `stat` and one small read per block.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn inventory(&self) -> Result<Inventory> {
        let wrong = |e| io_error(e, format!("cannot list the blocks in '{}'", self.0.folder.display()));
        let mut ids = std::collections::BTreeSet::new();
        for shard in std::fs::read_dir(self.0.folder.join("blocks")).map_err(wrong)? {
            for entry in std::fs::read_dir(shard.map_err(wrong)?.path()).map_err(wrong)? {
                let path = entry.map_err(wrong)?.path();
                let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
                ids.extend(
                    id.filter(|_: &BlockId| path.extension().is_some_and(|e| e == "block" || e == "sum")),
                );
            }
        }
        let mut inventory = Inventory::default();
        for id in ids {
            match self.length(id) {
                Ok(length) => inventory.blocks.push(BlockOnDisk { id, length }),
                // A checksum file alone is a rename that a crash cut in half: never acknowledged.
                Err(e) if e.kind() == Kind::NotFound => self.delete(id)?,
                Err(e) if e.kind() == Kind::Corrupt => inventory.bad.push(id),
                Err(e) => return Err(e),
            }
        }
        Ok(inventory)
    }

    /// The bytes of a block, whose files are there and fit each other.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, or those of the file system.
    pub fn length(&self, block: BlockId) -> Result<u64> {
        let file = self.open_block(block)?;
        let sidecar = self.sidecar(block)?;
        self.check_length(&file, &sidecar)?;
        Ok(sidecar.length)
    }

    /// Bytes `range` of a block, after checking the chunks they lie in.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`; `Invalid` if the range leaves the block; those of the file system.
    pub fn read(&self, block: BlockId, range: Range<u64>) -> Result<Bytes> {
        self.open_for_read(block)?.read(range)
    }

    /// A block, opened for reading: later reads go on even if it is deleted meanwhile.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, or those of the file system.
    pub fn open_for_read(&self, block: BlockId) -> Result<OpenBlock> {
        let file = self.open_block(block)?;
        let sidecar = self.sidecar(block)?;
        self.check_length(&file, &sidecar)?;
        Ok(OpenBlock { file, sidecar })
    }

    /// Starts a block; nothing is visible before [`BlockWriter::finish`].
    ///
    /// # Errors
    /// Those of the file system; `Exhausted` when it is full.
    pub fn create(&self, block: BlockId) -> Result<BlockWriter> {
        let number = self.0.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = self.0.folder.join("tmp").join(format!("{block}.{number}"));
        BlockWriter::create(self.clone(), block, temporary, self.0.chunk)
    }

    /// Deletes a block. One that is not there is fine.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn delete(&self, block: BlockId) -> Result<()> {
        self.0.sidecars.invalidate(&block);
        // Bytes first: without them the block is gone, whatever happens next.
        for path in [self.block_path(block), self.sidecar_path(block)] {
            let length = if path.extension().is_some_and(|e| e == "block") {
                std::fs::metadata(&path).map_or(0, |meta| meta.len())
            } else {
                0
            };
            match std::fs::remove_file(&path) {
                Ok(()) => self.account(length, 0),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(io_error(e, format!("cannot delete '{}'", path.display()))),
            }
        }
        Ok(())
    }

    fn account(&self, less: u64, more: u64) {
        // Never below zero, whatever people do to the folder.
        let _ = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            Some(used.saturating_sub(less).saturating_add(more))
        });
    }

    /// The file with the bytes of a block, for tests and for people.
    pub fn block_path(&self, block: BlockId) -> PathBuf {
        self.shard(block).join(format!("{block}.block"))
    }

    fn sidecar_path(&self, block: BlockId) -> PathBuf {
        self.shard(block).join(format!("{block}.sum"))
    }

    fn shard(&self, block: BlockId) -> PathBuf {
        let text = block.to_string();
        self.0.folder.join("blocks").join(&text[text.len() - 2..])
    }

    fn open_block(&self, block: BlockId) -> Result<File> {
        let path = self.block_path(block);
        File::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::not_found(format!("node {} has no block {block}", self.0.node)),
            _ => io_error(e, format!("cannot open '{}'", path.display())),
        })
    }

    fn sidecar(&self, block: BlockId) -> Result<Arc<Sidecar>> {
        if let Some(sidecar) = self.0.sidecars.get(&block) {
            return Ok(sidecar);
        }
        let path = self.sidecar_path(block);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        read.map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::corrupt(format!("block {block} has no checksum file")),
            _ => io_error(e, format!("cannot read '{}'", path.display())),
        })?;
        let sidecar = Arc::new(Sidecar::decode(block, &bytes)?);
        self.0.sidecars.insert(block, Arc::clone(&sidecar));
        Ok(sidecar)
    }

    fn check_length(&self, file: &File, sidecar: &Sidecar) -> Result<()> {
        let block = sidecar.block;
        let length = file.metadata().map_err(|e| io_error(e, format!("cannot stat block {block}")))?.len();
        if length != sidecar.length {
            return Err(Error::corrupt(format!(
                "block {block} on node {} has {length} bytes instead of {}",
                self.0.node, sidecar.length
            )));
        }
        Ok(())
    }
}

/// A block opened for reading.
#[derive(Debug)]
pub struct OpenBlock {
    file: File,
    sidecar: Arc<Sidecar>,
}

impl OpenBlock {
    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.sidecar.length
    }

    /// Bytes `range`, after checking the chunks they lie in.
    ///
    /// # Errors
    /// `Corrupt`; `Invalid` if the range leaves the block; those of the file system.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let Sidecar { block, chunk, length, .. } = *self.sidecar;
        if range.start > range.end || range.end > length {
            return Err(Error::invalid(format!(
                "bytes {}..{} are outside block {block} of {length} bytes",
                range.start, range.end
            )));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let chunk = u64::from(chunk);
        let first = range.start / chunk;
        let start = first * chunk;
        let end = range.end.div_ceil(chunk).saturating_mul(chunk).min(length);
        let mut bytes = vec![0; to_usize(end - start)?];
        self.file.read_exact_at(&mut bytes, start).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Error::corrupt(format!("block {block} is cut short")).source(e),
            // What a disk says of a sector it cannot read any more.
            _ if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Error::corrupt(format!("the disk cannot read block {block}")).source(e)
            }
            _ => io_error(e, format!("cannot read block {block}")),
        })?;
        self.sidecar.check(to_usize(first)?, &bytes)?;
        Ok(Bytes::from(bytes).slice(to_usize(range.start - start)?..to_usize(range.end - start)?))
    }
}

fn to_usize(value: u64) -> Result<usize> {
    usize::try_from(value)
        .map_err(|e| Error::invalid(format!("{value} bytes do not fit in memory")).source(e))
}

/// Names what failed; a full or read-only disk has a kind of its own.
pub(crate) fn io_error(e: std::io::Error, what: String) -> Error {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::no_space(what).hint("free space on that disk, or add a node").source(e)
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            Error::unavailable(what).hint("the process must be able to write there").source(e)
        }
        _ => Error::unavailable(what).source(e),
    }
}

fn other_store(folder: &Path) -> Error {
    Error::invalid(format!("the block folder '{}' holds blocks of another store", folder.display()))
        .hint("start the worker with an empty folder, or point it at the coordinator it belonged to")
}

/// Forces names in a folder to the disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|e| io_error(e, format!("cannot force the folder '{}' to the disk", folder.display())))
}

fn load_identity(folder: &Path, name: Option<NodeId>) -> Result<Identity> {
    let path = folder.join("node.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let node = match name {
                Some(name) => name,
                None => NodeId::new(format!("worker-{}", &BlockId::generate().to_string()[20..]))?,
            };
            let identity = Identity { version: VERSION, node, store: None };
            save_identity(folder, &identity)?;
            return Ok(identity);
        }
        Err(e) => return Err(io_error(e, format!("cannot read '{}'", path.display()))),
    };
    let identity: Identity = serde_json::from_slice(&bytes).map_err(|e| {
        Error::corrupt(format!("'{}' does not say which node the folder belongs to", path.display()))
            .hint(
                "restore the file, or start the worker with an empty folder: other replicas are copied to it",
            )
            .source(e)
    })?;
    if identity.version != VERSION {
        return Err(Error::invalid(format!(
            "the block folder '{}' is of version {}, this program reads version {VERSION}",
            folder.display(),
            identity.version
        ))
        .hint("use the version of skep that wrote it, or a newer one"));
    }
    if let Some(name) = name.filter(|name| *name != identity.node) {
        return Err(Error::invalid(format!(
            "the block folder '{}' belongs to node '{}', not to '{name}'",
            folder.display(),
            identity.node
        )));
    }
    Ok(identity)
}

fn save_identity(folder: &Path, identity: &Identity) -> Result<()> {
    let (path, temporary) = (folder.join("node.json"), folder.join("tmp").join("node.json"));
    let bytes = serde_json::to_vec_pretty(identity)
        .map_err(|e| Error::internal("cannot write a node's identity").source(e))?;
    let write = || {
        std::fs::write(&temporary, &bytes)?;
        File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|e| io_error(e, format!("cannot write '{}'", path.display())))?;
    sync_folder(folder)
}

#[cfg(test)]
mod tests;
